"""What is inside a model file: tensors, metadata, and how weights are encoded.

Knows nothing of engines, devices or where the files come from.
"""

from __future__ import annotations

from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf import GGUFFile
from tektra.formats.gguf_metadata import Metadata
from tektra.formats.tensor_info import TensorInfo

__all__ = ["GGMLType", "GGUFFile", "Metadata", "TensorInfo"]

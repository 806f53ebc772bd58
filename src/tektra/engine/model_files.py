"""Opens a model, whatever form it has on disk: a GGUF file or a Hugging Face directory.

It joins formats, models and tokenizers; what comes of it has one face.
"""

from __future__ import annotations

from pathlib import Path

from tektra.errors import TokenizerError
from tektra.formats.checkpoint import CONFIG
from tektra.formats.checkpoint_extras import end_ids
from tektra.formats.gguf import GGUFFile
from tektra.formats.hf_config import HfConfig
from tektra.models.checkpoint_view import CheckpointView
from tektra.tokenizer import Tokenizer, load_from_gguf

__all__ = ["ModelFile", "load_tokenizer", "open_model"]

ModelFile = GGUFFile | CheckpointView
"""What `open_model` gives: metadata, tensors and bytes with GGUF's names, keys and layouts."""


def open_model(path: Path) -> ModelFile:
    """Opens the GGUF file, or the model directory, at a path.

    Raises:
        ModelNotFoundError: it, or a part of it, is not there.
        FormatError: it is malformed.
        UnsupportedModelError: it needs something that is not supported.
        MemoryLimitError: there is no address space left to map it.
    """
    return CheckpointView.open(path) if path.is_dir() else GGUFFile.open(path)


def load_tokenizer(file: ModelFile) -> Tokenizer:
    """The tokenizer of an open model.

    Raises:
        TokenizerError: there is none, or it is malformed or not supported.
        FormatError: a file of a directory is malformed.
    """
    if isinstance(file, GGUFFile):
        return load_from_gguf(file.metadata)
    from tektra.tokenizer.directory import load_from_directory

    checkpoint = file.checkpoint
    ends = end_ids(
        HfConfig(checkpoint.config, name=CONFIG),
        HfConfig(checkpoint.generation_config, name="generation_config.json"),
        file.config,
    )
    tokenizer = load_from_directory(file.path, end_ids=ends)
    if not tokenizer.vocab_size:
        raise TokenizerError(f"the tokenizer in {file.path} has no tokens")
    return tokenizer

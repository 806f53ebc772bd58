"""The architectures: which module draws which kind of model.

A plain table from the name in a model file to a module, imported when it is first asked for. It
knows neither devices nor requests.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

from tektra.errors import UnsupportedModelError
from tektra.models.base import Architecture

if TYPE_CHECKING:
    from tektra.models.checkpoint_format import CheckpointFormat

__all__ = ["ARCHITECTURES", "CLASSES", "architecture", "checkpoint_format_of"]

ARCHITECTURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "bert": "tektra.models.bert",
        "gemma": "tektra.models.gemma",
        "gemma2": "tektra.models.gemma2",
        "gemma3": "tektra.models.gemma3",
        "gpt-oss": "tektra.models.gpt_oss",
        "granite": "tektra.models.granite",
        "granitemoe": "tektra.models.granitemoe",
        "llama": "tektra.models.llama",
        "modern-bert": "tektra.models.modern_bert",
        "nomic-bert": "tektra.models.nomic_bert",
        "olmo2": "tektra.models.olmo2",
        "olmoe": "tektra.models.olmoe",
        "phi3": "tektra.models.phi3",
        "qwen2": "tektra.models.qwen2",
        "qwen2moe": "tektra.models.qwen2moe",
        "qwen3": "tektra.models.qwen3",
        "qwen3moe": "tektra.models.qwen3moe",
        "smollm3": "tektra.models.smollm3",
    }
)
"""``general.architecture`` of a GGUF file -> the module that draws it."""

CLASSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "BertForMaskedLM": "tektra.models.bert_checkpoint",
        "BertForSequenceClassification": "tektra.models.bert_checkpoint:CLASSIFIER",
        "BertModel": "tektra.models.bert_checkpoint",
        "CamembertModel": "tektra.models.bert_checkpoint:ROBERTA",
        "Gemma2ForCausalLM": "tektra.models.gemma2",
        "Gemma3ForCausalLM": "tektra.models.gemma3",
        "Gemma3ForConditionalGeneration": "tektra.models.gemma3",
        "GemmaForCausalLM": "tektra.models.gemma",
        "GptOssForCausalLM": "tektra.models.gpt_oss",
        "GraniteMoeForCausalLM": "tektra.models.granitemoe",
        "GraniteMoeSharedForCausalLM": "tektra.models.granitemoe",
        "GraniteForCausalLM": "tektra.models.granite",
        "LlamaForCausalLM": "tektra.models.llama",
        "MistralForCausalLM": "tektra.models.mistral",
        "MixtralForCausalLM": "tektra.models.mixtral",
        "ModernBertForMaskedLM": "tektra.models.modern_bert",
        "ModernBertForSequenceClassification": "tektra.models.modern_bert:CLASSIFIER",
        "ModernBertModel": "tektra.models.modern_bert",
        "NomicBertModel": "tektra.models.nomic_bert",
        "Olmo2ForCausalLM": "tektra.models.olmo2",
        "Olmo3ForCausalLM": "tektra.models.olmo2",
        "OlmoeForCausalLM": "tektra.models.olmoe",
        "Phi3ForCausalLM": "tektra.models.phi3",
        "Qwen2ForCausalLM": "tektra.models.qwen2",
        "Qwen2MoeForCausalLM": "tektra.models.qwen2moe",
        "Qwen3ForCausalLM": "tektra.models.qwen3",
        "Qwen3MoeForCausalLM": "tektra.models.qwen3moe",
        "RobertaForMaskedLM": "tektra.models.bert_checkpoint:ROBERTA",
        "RobertaForSequenceClassification": "tektra.models.bert_checkpoint:ROBERTA_CLASSIFIER",
        "RobertaModel": "tektra.models.bert_checkpoint:ROBERTA",
        "SmolLM3ForCausalLM": "tektra.models.smollm3",
        "XLMRobertaForMaskedLM": "tektra.models.bert_checkpoint:ROBERTA",
        "XLMRobertaForSequenceClassification": "tektra.models.bert_checkpoint:ROBERTA_CLASSIFIER",
        "XLMRobertaModel": "tektra.models.bert_checkpoint:ROBERTA",
    }
)
"""Class in the ``architectures`` of a config.json -> the module whose ``CHECKPOINT`` reads it, or
another name in it."""


def architecture(name: str) -> Architecture:
    """The module that draws models of this architecture.

    Raises:
        UnsupportedModelError: there is none; the error names those there are.
    """
    module = ARCHITECTURES.get(name)
    if module is None:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        hint = f"the nearest is {near[0]!r}; " if near else ""
        raise UnsupportedModelError(
            f"the architecture {name[:64]!r} (general.architecture) is not supported",
            remedy=f"{hint}supported are: {', '.join(sorted(ARCHITECTURES))}",
        )
    return cast(Architecture, importlib.import_module(module))


def checkpoint_format_of(name: str) -> CheckpointFormat:
    """How checkpoints of a transformers class are read.

    Raises:
        UnsupportedModelError: the class is not known; the error names those that are.
    """
    module = CLASSES.get(name)
    if module is None:
        near = difflib.get_close_matches(name, CLASSES, n=1, cutoff=0.3)
        hint = f"the nearest is {near[0]!r}; " if near else ""
        raise UnsupportedModelError(
            f"models of the class {name[:64]!r} (architectures in config.json) are not supported",
            remedy=f"{hint}supported are: {', '.join(sorted(CLASSES))}",
        )
    place, _, attribute = module.partition(":")
    found = getattr(importlib.import_module(place), attribute or "CHECKPOINT")
    return cast("CheckpointFormat", found)

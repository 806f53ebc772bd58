"""Special tokens that are known by their text, for files that do not say what their tokens mean.

A list of names seen in published models; knows nothing of files or of decoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["END_OF_GENERATION", "end_of_generation_ids"]

END_OF_GENERATION: Final = frozenset(
    {
        # end of text, sequence, turn or message
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|im_end|>",
        "<|end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|return|>",
        "<|call|>",
        "<|calls|>",
        "<|flush|>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<turn|>",
        "<|tool_response>",
        "</s>",
        "<eos>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "[e~[",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        # what follows the last file of a code completion
        "<|fim_pad|>",
        "<fim-pad>",
        "<fim_pad>",
        "<|fim_repo|>",
        "<|repo_name|>",
        "<fim-repo>",
        "<REPO>",
        "<reponame>",
        "<|file_sep|>",
    }
)
"""Texts of control tokens after which nothing more belongs to an answer (as llama.cpp has them)."""

_MESSAGE_ENDS: Final = ({"<|return|>", "<|call|>"}, {"<|calls|>", "<|flush|>"})


def end_of_generation_ids(control: Mapping[str, int]) -> frozenset[int]:
    """Ids that end a generation, among control tokens given by text.

    In a vocabulary that has tokens for the end of an answer and of a call, ``<|end|>`` only
    ends one of the messages that make up an answer, so it is left out; likewise ``</s>`` where
    there is ``<|tool_response>``.
    """
    found = {text for text in control if text in END_OF_GENERATION}
    if any(ends <= found for ends in _MESSAGE_ENDS):
        found.discard("<|end|>")
    if "<|tool_response>" in found:
        found.discard("</s>")
    return frozenset(control[text] for text in found)

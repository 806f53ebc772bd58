"""Turns a conversation into the tokens of a prompt, by one of the model's chat templates.

It chooses the template and sees to the beginning of sequence; it does not know what a template
writes or how text is cut into tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from tektra.engine.prompts import Message
from tektra.errors import InvalidParameterError
from tektra.tokenizer import ChatTemplate, Tokenizer, default_template, encode_chat

__all__ = ["ChatEncoder"]

_MAX_COMPILED = 8


class ChatEncoder:
    """The way from messages to tokens for one model.

    Args:
        tokenizer: the model's.
        templates: sources of its chat templates by name.
    """

    def __init__(self, tokenizer: Tokenizer, templates: Mapping[str, str]) -> None:
        self._tokenizer = tokenizer
        self._templates = templates
        self._compile = lru_cache(_MAX_COMPILED)(self._compile_uncached)

    def encode(
        self,
        messages: Sequence[Message],
        *,
        template: str | None = None,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a conversation. What messages say is never read as a special token.

        Args:
            messages: the conversation.
            template: name of one of the model's templates, or the source of another one.
            add_generation_prompt: end with the beginning of an answer.
            tools: functions that the model may call, as JSON schemas.
            options: further variables of the template.

        Raises:
            InvalidParameterError: messages are not well-formed.
            TemplateError: there is no template, or it fails on the messages.
        """
        clash = {"add_generation_prompt", "messages", "template", "tokenizer", "tools"} & {
            *(options or {})
        }
        if clash:
            raise InvalidParameterError(
                "template_options", f"{min(clash)!r} has a parameter of its own"
            )
        if isinstance(messages, Sequence) and not messages:
            raise InvalidParameterError("messages", "there are none", remedy="give at least one")
        tokenizer = self._tokenizer
        ids = encode_chat(
            tokenizer,
            self._compile(self._source(template, tools is not None)),
            messages,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            **(options or {}),
        )
        # Most templates write the beginning of sequence themselves; there must be just one.
        bos = tokenizer.bos_id
        if tokenizer.add_bos and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def _source(self, template: str | None, with_tools: bool) -> str:
        # Whatever writes something out has an expression in it; a name has not.
        if template is not None and "{" in template:
            return template
        if template is None and with_tools and "tool_use" in self._templates:
            template = "tool_use"
        return default_template(self._templates, template)

    def _compile_uncached(self, source: str) -> ChatTemplate:
        def text(token: int | None) -> str | None:
            return None if token is None else self._tokenizer.token_text(token)

        return ChatTemplate(
            source,
            bos_token=text(self._tokenizer.bos_id),
            eos_token=text(self._tokenizer.eos_id),
        )

"""Messages to token ids, so that what a user writes cannot become a control token.

Joins a template and a tokenizer. It knows neither's inside: only that a marker character put
into a text comes out of the template where the text does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Final

from tektra.tokenizer.base import Tokenizer
from tektra.tokenizer.chat_template import ChatTemplate
from tektra.tokenizer.messages import map_strings, plain_data, plain_messages

__all__ = ["encode_chat"]

# The last private use plane: no published text or template has any of it.
_MARKERS: Final = range(0x10FFFD, 0x10FF00, -1)


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    **extra: Any,
) -> list[int]:
    """Token ids of a conversation.

    Special tokens are read from what the template writes, never from what the messages say: a
    user who types ``<|im_end|>`` has typed ten characters. Where no message holds the text of a
    special token, the ids are those of the rendered text, as transformers has them.

    It works by marking the special tokens' texts in the messages before they go through the
    template. A template that itself looks for such a text in a message (``</think>``, to cut
    off what was thought) must see it as it is: texts whose marking changes what is rendered are
    left unmarked, and those alone count as special tokens wherever they stand.

    Args:
        tokenizer: whose ids are wanted; nothing is put round the text beyond what the template
            writes.
        template, messages, add_generation_prompt, tools, extra: as in `ChatTemplate.render`.

    Raises:
        InvalidParameterError, TemplateError, TemplateLimitError: as in `ChatTemplate.render`.
    """
    plain = plain_messages(messages)
    variables: dict[str, Any] = {
        "add_generation_prompt": add_generation_prompt,
        "tools": None if tools is None else plain_data(tools, "tools"),
        **{name: plain_data(value, name) for name, value in extra.items()},
    }
    rendered = template.render_plain(plain, variables)
    inputs = [plain, variables]
    strings = list(_strings(inputs))
    marker = _unused_marker([rendered, *strings])
    typed = {i for text in strings for i in _mark(tokenizer, text, marker)[1]}
    if not typed:
        return tokenizer.encode(rendered, add_special=False)

    def render_marked(token_ids: set[int]) -> str | None:
        """The rendered text with these tokens marked; nothing if that changes it otherwise."""
        marked = map_strings(inputs, lambda text: _mark(tokenizer, text, marker, token_ids)[0])
        text = template.render_plain(*marked)
        return text if text.replace(marker, "") == rendered else None

    marked = render_marked(typed)
    if marked is None:
        # A template can look only for what it names; the others are not in its way.
        named = {i for i in typed if tokenizer.token_text(i) in template.source}
        seen = {i for i in named if render_marked({i}) is None}
        marked = render_marked(typed - seen)
    return tokenizer.encode_marked(rendered if marked is None else marked, marker)


def _mark(
    tokenizer: Tokenizer, text: str, marker: str, token_ids: Set[int] | None = None
) -> tuple[str, set[int]]:
    """Text with a marker in each special token's text (or only these tokens'), and their ids."""
    marked: set[int] = set()
    while True:
        parts: list[str] = []
        done = 0
        for start, end, token_id in tokenizer.special_matcher.find_all(text):
            # A token of one character is marked behind it.
            if text[end : end + 1] == marker and end - start == 1:
                continue
            if token_ids is None or token_id in token_ids:
                # After the first character: what templates strip from the ends stays there.
                parts += [text[done : start + 1], marker, text[start + 1 : end]]
                done = end
                marked.add(token_id)
        if not parts:
            return text, marked
        # Where texts of special tokens overlap, breaking one may bring out another.
        text = "".join([*parts, text[done:]])


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _unused_marker(texts: Sequence[str]) -> str:
    used = set().union(*map(set, texts))
    return next(chr(code) for code in _MARKERS if chr(code) not in used)

"""Chat templates: what turns messages into the text that a model was trained on.

Renders the Jinja templates that come with models, in a sandbox, because whoever made the file
wrote them. It does not know how the text is cut into tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, final

from jinja2 import Template
from jinja2.exceptions import SecurityError, TemplateSyntaxError

from tektra.errors import TemplateError, TemplateLimitError
from tektra.tokenizer.messages import count_chars, plain_data, plain_messages
from tektra.tokenizer.template_budget import Budget, with_budget
from tektra.tokenizer.template_sandbox import MeteredEnvironment

__all__ = ["ChatTemplate", "default_template", "find_templates"]

_KEY: Final = "tokenizer.chat_template"
_MAX_SOURCE: Final = 128 * 1024
_REMEDY: Final = "the file is damaged or was converted wrongly: get it again"


@final
class ChatTemplate:
    """A chat template, compiled. Safe to share between threads.

    Args:
        source: the template, as published with the model.
        bos_token: text of the beginning of sequence; `None` leaves the variable undefined.
        eos_token: text of the end of sequence, likewise.

    Raises:
        TemplateError: the template is malformed, too long, or uses something that chat
            templates may not.
    """

    def __init__(
        self, source: str, *, bos_token: str | None = None, eos_token: str | None = None
    ) -> None:
        if len(source) > _MAX_SOURCE:
            raise TemplateError(
                f"the chat template has {len(source)} characters, the limit is {_MAX_SOURCE}"
            )
        self.source = source
        tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._tokens = {name: text for name, text in tokens.items() if text is not None}
        self._template = _compiled(source)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **extra: Any,
    ) -> str:
        """Text of a conversation.

        Args:
            messages: mappings with a role, and content that is text, a list of parts or
                nothing; other fields are handed on.
            add_generation_prompt: end with what an answer of the model begins with.
            tools: JSON schemas of functions that the model may call.
            **extra: further variables of the template (`enable_thinking`, `documents`...).

        Raises:
            InvalidParameterError: messages, tools or variables are not plain data of the right
                shape; names the place.
            TemplateError: the template refuses the messages, or fails on them.
            TemplateLimitError: it does too much work.
        """
        return self.render_plain(
            plain_messages(messages),
            {
                "add_generation_prompt": add_generation_prompt,
                "tools": None if tools is None else plain_data(tools, "tools"),
                **{name: plain_data(value, name) for name, value in extra.items()},
            },
        )

    def render_plain(self, messages: list[dict[str, Any]], variables: Mapping[str, Any]) -> str:
        """As `render`, of messages and variables that were checked and copied already."""
        inputs = {"documents": None, **self._tokens, **variables, "messages": messages}
        budget = Budget(sum(map(count_chars, inputs.values())))
        context = self._template.new_context(with_budget(inputs, budget))
        try:
            # Blocks were paid for as they came, so the whole is within the budget too.
            return "".join(self._template.root_render_func(context))
        except TemplateError:
            raise
        except Exception as error:
            line = _line_of(self._template, error.__traceback__)
            raise _as_template_error(error, line) from error


def find_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates in the metadata of a GGUF file, by name; the nameless one as "default".

    Raises:
        TemplateError: one of them is not text, or has bytes that are not UTF-8.
    """
    found: dict[str, str] = {}
    for key in metadata:
        if key == _KEY or key.startswith(f"{_KEY}."):
            value = metadata[key]
            if not isinstance(value, str):
                raise TemplateError(f"{key}: expected text, got {type(value).__name__}")
            if not _is_unicode(value):
                raise TemplateError(f"{key}: the chat template is not UTF-8", remedy=_REMEDY)
            found[key.removeprefix(_KEY).removeprefix(".") or "default"] = value
    return found


def default_template(templates: Mapping[str, str], name: str | None = None) -> str:
    """The template to use: the one named, or the default one of the model.

    Raises:
        TemplateError: there is none, or none of that name.
    """
    if name is not None:
        if name in templates:
            return templates[name]
        known = ", ".join(sorted(templates)) or "none"
        raise TemplateError(f"the model has no chat template named {name!r}; it has: {known}")
    if "default" in templates:
        return templates["default"]
    if len(templates) == 1:
        return next(iter(templates.values()))
    if templates:
        raise TemplateError(
            "the model has several chat templates and no default one",
            remedy=f"name one of: {', '.join(sorted(templates))}",
        )
    raise TemplateError(
        "the model has no chat template: it was not made for chat",
        remedy="complete plain text with --raw, or give a chat template",
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # bytes that the reader of the file could not decode
        return False
    return True


def _compiled(source: str) -> Template:
    try:
        return MeteredEnvironment().from_string(source)
    except TemplateError:
        raise
    except TemplateSyntaxError as error:
        raise TemplateError(f"chat template, line {error.lineno}: {error.message}") from error
    except (RecursionError, MemoryError) as error:
        raise TemplateError("the chat template is nested too deeply") from error
    except Exception as error:
        # Python refuses some of what the parser lets through: huge numbers, too many blocks.
        raise TemplateError(f"the chat template cannot be compiled: {error}") from error


def _as_template_error(error: Exception, line: int | None) -> TemplateError:
    where = "the chat template" if line is None else f"the chat template, line {line}"
    if isinstance(error, RecursionError | MemoryError):
        return TemplateLimitError(f"{where}: calls itself too deeply, or needs too much memory")
    if isinstance(error, SecurityError):
        return TemplateError(f"{where}: reaches for what it may not: {error}")
    return TemplateError(f"{where}: {error}")


def _line_of(template: Template, traceback: TracebackType | None) -> int | None:
    """Line of the template that an error comes from."""
    code, line = template.root_render_func.__code__, None
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_filename == code.co_filename:
            line = template.get_corresponding_lineno(traceback.tb_lineno)
        traceback = traceback.tb_next
    return line

"""What a person can type in a chat besides a message: commands that begin with a slash.

They change the state of the chat and say so on standard error; they do not generate anything.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tektra.cli.answer import timings_line
from tektra.cli.conversation import Conversation, read_conversation, write_conversation
from tektra.cli.render import human_bytes, safe_text
from tektra.cli.sampling_options import SAMPLING_OPTIONS, parse_setting
from tektra.errors import InvalidParameterError, TektraError

if TYPE_CHECKING:
    from tektra.engine.outputs import Completion
    from tektra.engine.sampling_params import SamplingParams
    from tektra.llm import LLM

__all__ = ["COMMANDS", "Chat", "run_command"]


@dataclass(slots=True, kw_only=True)
class Chat:
    """The state of a chat.

    Attributes:
        last: the latest answer that came to its end.
        written: files that this chat wrote or read, which /save may replace.
        ended: whether the person has asked for the end.
        adapters: names and scales of the adapters that the model has.
    """

    llm: LLM
    params: SamplingParams
    name: str
    conversation: Conversation
    last: Completion | None = None
    written: set[Path] = field(default_factory=set)
    ended: bool = False
    adapters: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        argument: how what follows its name is shown; empty where nothing may follow.
        help: one line.
        run: does it; returns whether the last question is to be answered now.
    """

    argument: str
    help: str
    run: Callable[[Chat, str], bool]


def run_command(chat: Chat, text: str) -> bool:
    """Runs a line that begins with a slash; returns whether the last question is to be answered.

    Raises:
        TektraError: there is no such command, or it cannot be done.
    """
    name, _, argument = text[1:].strip().partition(" ")
    argument = argument.strip()
    command = COMMANDS.get(name.lower())
    if command is None:
        near = difflib.get_close_matches(name.lower(), COMMANDS, n=1, cutoff=0.5)
        remedy = f"did you mean /{near[0]}? " if near else "/help shows those there are; "
        raise TektraError(
            f"there is no command /{name}", remedy=remedy + "a message that begins with / takes //"
        )
    if argument and not command.argument:
        raise TektraError(f"/{name} takes nothing after it")
    return command.run(chat, argument)


def _help(chat: Chat, _: str) -> bool:
    rows = [(f"/{name} {command.argument}", command.help) for name, command in COMMANDS.items()]
    rows += [
        ('"""', "begins a message of several lines; the same ends it"),
        ("Alt-Enter", "begins a new line (Esc, then Enter, does too)"),
        ("Ctrl-C", "stops an answer; twice at an empty prompt, ends the chat"),
        ("Ctrl-D", "ends the chat"),
    ]
    for left, right in rows:
        _say(f"  {left:<20}  {right}")
    return False


def _stats(chat: Chat, _: str) -> bool:
    if chat.last is not None:
        _say(f"last answer: {timings_line(chat.last)}")
        used = chat.last.prompt_tokens + chat.last.completion_tokens
        _say(f"context: {used:,} of {chat.llm.capabilities.context:,} tokens")
    stats = chat.llm.stats()
    _say(
        f"since loading: {stats.requests_finished} answers, {stats.prompt_tokens:,} prompt tokens "
        f"(and {stats.cached_tokens:,} cached), {stats.generated_tokens:,} generated"
    )
    parts = ", ".join(f"{name} {human_bytes(size)}" for name, size in stats.memory.items())
    _say(f"memory: {parts}")
    return False


def _clear(chat: Chat, _: str) -> bool:
    chat.conversation.messages.clear()
    _say("the chat begins anew" + ("; the system prompt stays" if chat.conversation.system else ""))
    return False


def _system(chat: Chat, text: str) -> bool:
    if not text:
        _say(chat.conversation.system or "there is no system prompt")
        return False
    chat.conversation.system = None if text.lower() == "none" else text
    _say("the system prompt is set" if chat.conversation.system else "no system prompt")
    return False


def _set(chat: Chat, text: str) -> bool:
    # Both "/set top_k 5" and "/set top_k=5"; a value may have signs of its own (5=-100).
    match = re.match(r"([^\s=]*)\s*=?\s*", text)
    name, value = (match[1], text[match.end() :]) if match else ("", "")
    name = name.lower().lstrip("-").replace("-", "_")
    if not name:
        for field_name in SAMPLING_OPTIONS:
            _say(f"  {field_name:<22} {_setting(chat, field_name)}")
        return False
    if name not in SAMPLING_OPTIONS:
        near = difflib.get_close_matches(name, SAMPLING_OPTIONS, n=1, cutoff=0.5)
        raise InvalidParameterError(
            name,
            "there is no such sampling parameter",
            remedy=f"did you mean {near[0]}?" if near else "/set shows those there are",
        )
    if name == "logprobs":
        raise InvalidParameterError(name, "a chat does not show log-probabilities")
    if value:
        setting = parse_setting(name, value, chat.llm.default_sampling)
        chat.params = chat.params.replace(**{name: setting})
    _say(f"{name} is {_setting(chat, name)}")
    return False


def _setting(chat: Chat, name: str) -> str:
    """A parameter's value, and whose it is where it is neither the default nor the person's."""
    from tektra.engine.sampling_params import SamplingParams

    value, recommended = getattr(chat.params, name), getattr(chat.llm.default_sampling, name)
    of_model = value == recommended != getattr(SamplingParams(), name)
    return f"{value!r}" + ("  (recommended by the model)" if of_model else "")


def _save(chat: Chat, text: str) -> bool:
    path = _path(text)
    write_conversation(path, chat.conversation, model=chat.name, replace=path in chat.written)
    chat.written.add(path)
    _say(f"saved {len(chat.conversation.messages)} messages to {path}")
    return False


def _load(chat: Chat, text: str) -> bool:
    path = _path(text)
    chat.conversation = read_conversation(path)
    chat.written.add(path)
    # A question that was saved without its answer is not asked again by itself.
    _say(f"loaded {len(chat.conversation.messages)} messages from {path}")
    if chat.conversation.messages and chat.conversation.messages[-1][0] == "user":
        _say("the last one has no answer: /retry asks it again, /undo takes it back")
    return False


def _retry(chat: Chat, _: str) -> bool:
    if not chat.conversation.drop_answer():
        raise TektraError("there is no question to answer again")
    return True


def _undo(chat: Chat, _: str) -> bool:
    if not chat.conversation.drop_exchange():
        raise TektraError("there is nothing to take back")
    _say("the last question and its answer are taken back")
    return False


def _bye(chat: Chat, _: str) -> bool:
    chat.ended = True
    return False


COMMANDS: Mapping[str, Command] = {
    "help": Command("", "this text", _help),
    "stats": Command("", "counts, rates and memory", _stats),
    "clear": Command("", "forgets the messages", _clear),
    "system": Command("[TEXT]", "shows or sets the system prompt; none removes it", _system),
    "set": Command("[PARAM [VALUE]]", "shows or sets a sampling parameter", _set),
    "save": Command("FILE", "writes the chat to a file", _save),
    "load": Command("FILE", "takes a chat up again", _load),
    "retry": Command("", "answers the last question again", _retry),
    "undo": Command("", "takes the last question and its answer back", _undo),
    "bye": Command("", "ends the chat", _bye),
}


def _path(text: str) -> Path:
    if not text:
        raise TektraError("the name of the file is missing")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise TektraError(f"{text}: there is no such home directory") from None


def _say(text: Any) -> None:
    print(safe_text(str(text)), file=sys.stderr, flush=True)

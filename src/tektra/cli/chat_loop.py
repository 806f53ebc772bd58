"""A chat on a terminal: reads, answers, remembers. Commands are in `chat_commands.py`.

It knows the public API. Ctrl-C stops an answer, whose beginning is kept; at an empty prompt the
second one in a row ends the chat, as Ctrl-D does.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tektra.cli.answer import dropped_line, stream_answer, timings_line
from tektra.cli.chat_commands import COMMANDS, Chat, run_command
from tektra.cli.conversation import Conversation
from tektra.cli.line_editor import ReadLine, line_reader, typing_unseen
from tektra.cli.render import print_error
from tektra.config import state_dir
from tektra.errors import ContextLengthError, TektraError

if TYPE_CHECKING:
    from tektra.engine.sampling_params import SamplingParams
    from tektra.llm import LLM

__all__ = ["chat_loop"]


def chat_loop(
    llm: LLM,
    params: SamplingParams,
    *,
    name: str,
    system: str | None,
    verbose: bool = False,
    history: bool = True,
    read: ReadLine | None = None,
    adapters: Mapping[str, float] | None = None,
) -> None:
    """Chats until the person ends it.

    Args:
        name: the model as the person named it.
        verbose: counts and rates after each answer.
        history: whether the lines typed are kept for later chats.
        read: gives the next input; None reads from the terminal.
        adapters: names and scales of the adapters that the model has for it.
    """
    chat = Chat(
        llm=llm, params=params, name=name, conversation=Conversation(system), adapters=adapters
    )
    if read is None:
        read = line_reader(
            state_dir() if history else None, [f"/{command}" for command in COMMANDS]
        )
    _note(f"chat with {name}; /help shows what can be typed, /bye ends")
    interrupted = False
    while not chat.ended:
        try:
            text = read()
            interrupted = False
            _take(chat, text, verbose=verbose)
        except EOFError:
            _note("")
            return
        except KeyboardInterrupt:
            if interrupted:
                return
            interrupted = True
            _note("press Ctrl-C again to end the chat")
        except TektraError as error:
            print_error(error)


def _take(chat: Chat, text: str, *, verbose: bool) -> None:
    if not text.strip():
        return
    if text.startswith("/") and not text.startswith("//"):
        if not run_command(chat, text):
            return
    else:
        # A message that begins with a slash is typed with two.
        message = text[1:] if text.startswith("//") else text
        message = message.encode("utf-8", "replace").decode("utf-8")
        chat.conversation.messages.append(("user", message))
    _answer(chat, verbose=verbose)


def _answer(chat: Chat, *, verbose: bool) -> None:
    """Answers the question at the end of the conversation."""
    messages = chat.conversation.messages
    try:
        # An echo of what is typed ahead would stand in the middle of the answer.
        with typing_unseen():
            answer = stream_answer(
                chat.llm, chat.conversation.for_model(), chat.params, adapters=chat.adapters
            )
    except TektraError as error:
        # A question that cannot be answered would stand in the way of the next one.
        messages.pop()
        if isinstance(error, ContextLengthError):
            raise TektraError(
                error.message,
                remedy="/undo takes the last exchange back, /clear begins anew; or run with a "
                "larger --context, or with --context-policy slide",
            ) from None
        raise
    if answer.interrupted and not answer.text:
        messages.pop()
        _note("stopped; the question is taken back")
        return
    messages.append(("assistant", answer.text))
    if answer.interrupted:
        _note("stopped; what was said so far is kept")
    if answer.completion is not None:
        chat.last = answer.completion
        if answer.completion.dropped_tokens:
            _note(dropped_line(answer.completion))
        if answer.completion.finish_reason == "length":
            _note("the answer was cut: max_tokens or the context is used up")
        if verbose:
            _note(timings_line(answer.completion))


def _note(text: str) -> None:
    """A word from the program, apart from the answers on standard output."""
    print(text, file=sys.stderr, flush=True)

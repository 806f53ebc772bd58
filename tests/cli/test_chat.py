"""The chat loop and its commands, with typed lines in place of a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from tests.cli.fake_llm import FakeLLM

from tektra.cli.chat_commands import COMMANDS
from tektra.cli.chat_loop import chat_loop
from tektra.engine.sampling_params import SamplingParams
from tektra.llm import LLM

Typed = str | type[BaseException]


class Terminal:
    """Runs a chat over lines that were typed, and keeps what was printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.llm = FakeLLM()

    def chat(self, *lines: Typed, system: str | None = None, **options: Any) -> tuple[str, str]:
        typed: Iterator[Typed] = iter(lines)

        def read() -> str:
            line = next(typed, EOFError)
            if isinstance(line, str):
                return line
            raise line

        params = options.pop("params", SamplingParams())
        chat_loop(cast(LLM, self.llm), params, name="fake", system=system, read=read, **options)
        captured = self._capsys.readouterr()
        return captured.out, captured.err

    @property
    def last(self) -> list[tuple[str, str]]:
        return [(message["role"], message["content"]) for message in self.llm.requests[-1]]


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


def test_the_history_goes_along(terminal: Terminal) -> None:
    out, _ = terminal.chat("one", "  ", "two", system="sys")
    assert out == "ONE\nTWO\n"
    assert terminal.last == [
        ("system", "sys"), ("user", "one"), ("assistant", "ONE"), ("user", "two")
    ]  # fmt: skip


def test_bye_ends(terminal: Terminal) -> None:
    out, _ = terminal.chat("/bye", "never")
    assert out == ""
    assert not terminal.llm.requests


def test_two_interrupts_at_an_empty_prompt_end(terminal: Terminal) -> None:
    out, err = terminal.chat(KeyboardInterrupt, "a", KeyboardInterrupt, KeyboardInterrupt, "b")
    assert out == "A\n", "the first one alone does not end, nor do two that are apart"
    assert err.count("Ctrl-C again") == 2


def test_an_interrupt_keeps_the_beginning_of_the_answer(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = terminal.llm._stream

    def interrupted(request: Any, text: str, params: SamplingParams) -> Iterator[Any]:
        for number, chunk in enumerate(stream := real(request, text, params)):
            if text == "a b c" and number == 2:
                stream.close()
                raise KeyboardInterrupt
            yield chunk

    monkeypatch.setattr(terminal.llm, "_stream", interrupted)
    out, err = terminal.chat("a b c", "next")
    assert out == "A B\nNEXT\n"
    assert "stopped" in err
    assert terminal.last == [("user", "a b c"), ("assistant", "A B"), ("user", "next")]
    assert terminal.llm.cancelled == 1


def test_a_failed_question_is_taken_back(terminal: Terminal) -> None:
    out, err = terminal.chat("this is too long", "short")
    assert out == "SHORT\n"
    assert "100 tokens" in err
    assert "/undo" in err
    assert terminal.last == [("user", "short")]


def test_set_shows_and_restores_what_the_model_recommends(terminal: Terminal) -> None:
    terminal.llm.default_sampling = SamplingParams(temperature=0.2)
    _, err = terminal.chat(
        "/set", "/set temperature 0.5", "/set top_p 0.3", "/set temperature none",
        "/set top_p none", "/set repetition_penalty off", "x", params=terminal.llm.default_sampling,
    )  # fmt: skip
    listed, changed = err.split("temperature is 0.5\n")
    assert "temperature            0.2  (recommended by the model)\n" in listed
    assert listed.count("recommended") == 1
    assert "temperature is 0.2  (recommended by the model)\n" in changed
    assert "top_p is 0.95\n" in changed
    assert "must be a number, not 'off'" in changed
    assert terminal.llm.params == [SamplingParams(temperature=0.2)]


def test_an_answer_that_was_cut_says_so(terminal: Terminal) -> None:
    out, err = terminal.chat("a b c", params=SamplingParams(max_tokens=2))
    assert out == "A B\n"
    assert "cut" in err


def test_verbose(terminal: Terminal) -> None:
    _, err = terminal.chat("a", verbose=True)
    assert "prompt 7 tokens" in err


def test_help_names_every_command(terminal: Terminal) -> None:
    _, err = terminal.chat("/help")
    for name in COMMANDS:
        assert f"/{name}" in err
    assert '"""' in err
    wanted = {"help", "stats", "clear", "system", "set", "save", "load", "retry", "undo", "bye"}
    assert COMMANDS.keys() == wanted


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/hepl", "did you mean /help?"),
        ("/xyzzy", "there is no command /xyzzy"),
        ("/", "there is no command /"),
        ("/bye now", "/bye takes nothing"),
        ("/undo", "nothing to take back"),
        ("/retry", "no question"),
        ("/save", "name of the file is missing"),
        ("/load /no/such/file", "cannot be read"),
        ("/save /no/such/folder/file", "cannot be written"),
        ("/set temprature 1", "did you mean temperature?"),
        ("/set temperature hot", "must be a number"),
        ("/set temperature nan", "nan"),
        ("/set top_k 1.5", "whole number"),
        ("/set ignore_eos maybe", "on or off"),
        ("/set logprobs 3", "does not show"),
        ("/set logit_bias 5", "is not ID=BIAS"),
    ],
)
def test_a_mistake_is_explained_and_the_chat_goes_on(
    terminal: Terminal, line: str, expected: str
) -> None:
    out, err = terminal.chat(line, "go on")
    assert expected in err
    assert out == "GO ON\n"


def test_a_message_may_begin_with_a_slash(terminal: Terminal) -> None:
    terminal.chat("//etc is a folder")
    assert terminal.last == [("user", "/etc is a folder")]


def test_set(terminal: Terminal) -> None:
    lines = (
        "/set temperature 0", "/set top-k=5", "/set stop A B", "/set seed 9", "/set seed none",
        "/set ignore_eos on", "/set logit_bias 5=-100 6=2", "/set max_tokens 3", "/set top_p",
    )  # fmt: skip
    _, err = terminal.chat(*lines, "x")
    assert terminal.llm.params == [
        SamplingParams(
            temperature=0, top_k=5, stop=("A", "B"), ignore_eos=True,
            logit_bias={5: -100, 6: 2}, max_tokens=3,
        )
    ]  # fmt: skip
    assert "top_p is 0.95" in err
    _, err = terminal.chat("/set")
    assert all(name in err for name in SamplingParams.parameter_names())


def test_system(terminal: Terminal) -> None:
    _, err = terminal.chat("/system", "/system be kind", "/system", "x")
    assert "there is no system prompt" in err
    assert terminal.last[0] == ("system", "be kind")
    terminal.chat("/system none", "y", system="old")
    assert terminal.last == [("user", "y")]


def test_clear_keeps_the_system_prompt(terminal: Terminal) -> None:
    terminal.chat("a", "/clear", "b", system="s")
    assert terminal.last == [("system", "s"), ("user", "b")]


def test_undo_and_retry(terminal: Terminal) -> None:
    out, _ = terminal.chat("a", "b", "/undo", "/retry", "c")
    assert out == "A\nB\nA\nC\n"
    assert terminal.last == [("user", "a"), ("assistant", "A"), ("user", "c")]


def test_stats(terminal: Terminal) -> None:
    _, err = terminal.chat("/stats", "a", "/stats")
    assert "weights 2.0 KiB" in err
    assert "context: 8 of 64 tokens" in err


def test_save_and_load(terminal: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "my chat.json"
    terminal.chat("äh\nb", f"/save {path}", "more", f"/save {path}", system="s")
    saved = json.loads(path.read_text("utf-8"))
    assert saved["system"] == "s"
    assert [message["content"] for message in saved["messages"]] == [
        "äh\nb", "ÄH\nB", "more", "MORE"
    ]  # fmt: skip
    terminal.chat(f"/load {path}", "next")
    assert [content for _, content in terminal.last] == [
        "s", "äh\nb", "ÄH\nB", "more", "MORE", "next"
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"


def test_save_does_not_replace_a_strangers_file(terminal: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "precious.txt"
    path.write_text("mine")
    _, err = terminal.chat("a", f"/save {path}")
    assert "is there already" in err
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    "text",
    [
        "", "nonsense", "[]", "{}", "[" * 100_000, '{"format": "tektra-chat"}',
        '{"format": "tektra-chat", "version": 2, "messages": []}',
        '{"format": "tektra-chat", "version": 1}',
        '{"format": "tektra-chat", "version": 1, "system": 1, "messages": []}',
        '{"format": "tektra-chat", "version": 1, "messages": [1]}',
        '{"format": "tektra-chat", "version": 1, "messages": [{"role": "x", "content": "y"}]}',
        '{"format": "tektra-chat", "version": 1, "messages": [{"role": [], "content": "y"}]}',
        '{"format": "tektra-chat", "version": 1, "messages": [{"role": "user", "content": 1}]}',
    ],
)  # fmt: skip
def test_a_file_that_is_no_chat_changes_nothing(
    terminal: Terminal, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    _, err = terminal.chat("a", f"/load {path}", "b")
    assert err.count("error:") == 1
    assert terminal.last == [("user", "a"), ("assistant", "A"), ("user", "b")]


def test_a_chat_that_ends_with_a_question(terminal: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(
        '{"format": "tektra-chat", "version": 1, "messages": [{"role": "user", "content": "q"}]}'
    )
    out, err = terminal.chat(f"/load {path}", "/retry")
    assert out == "Q\n"
    assert "/retry asks it again" in err


def test_half_a_character_does_not_reach_the_model(terminal: Terminal) -> None:
    terminal.chat("a\udcffb")
    assert terminal.last == [("user", "a?b")]

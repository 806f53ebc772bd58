"""Help, version and wrong usage."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from tests.cli.conftest import Invoke

from tektra._version import __version__
from tektra.cli.sampling_options import SAMPLING_OPTIONS, option_name, parse_setting
from tektra.engine.sampling_params import SamplingParams

COMMANDS = (
    "run",
    "show",
    "bench",
    "perplexity",
    "embed",
    "rerank",
    "quantize",
    "imatrix",
    "doctor",
)


def test_version(invoke: Invoke) -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"tektra {__version__}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_fits_80_columns(invoke: Invoke, command: str) -> None:
    for option in ("--help", "-h"):
        result = invoke(command, option)
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: tektra {command}")
        assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert command in invoke("--help").stdout


def test_help_imports_nothing_heavy(environment: dict[str, str]) -> None:
    code = (
        "import sys\n"
        "from tektra.cli.main import main\n"
        "sys.argv = ['tektra', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'tokenizers', 'rich', 'jinja2', 'prompt_toolkit', 'httpx', 'asyncio'}\n"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stderr.strip() == "[]"


def test_every_sampling_parameter_has_an_option(invoke: Invoke) -> None:
    fields = [field.name for field in dataclasses.fields(SamplingParams)]
    assert list(SAMPLING_OPTIONS) == fields
    shown = invoke("run", "--help").stdout
    for name in fields:
        assert f"{option_name(name)} " in shown or f"{option_name(name)}\n" in shown


def test_the_defaults_in_the_help_are_those_of_the_parameters() -> None:
    in_words = {"max_tokens", "seed", "logprobs", "logit_bias", "stop", "stop_token_ids"}
    params = SamplingParams()
    for name, option in SAMPLING_OPTIONS.items():
        value = getattr(params, name)
        if name in in_words:
            assert value in (None, ()), "the words say that there is none"
        elif name == "dry_sequence_breakers":
            assert tuple(option.default.replace(r"\n", "\n").split(" ")) == value
        else:
            assert parse_setting(name, option.default, SamplingParams()) == value, name


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["fly"],
        ["run"],
        ["run", "m.gguf", "prompt", "--no-such-option"],
        ["run", "m.gguf", "prompt", "--temperature", "warm"],
        ["run", "m.gguf", "prompt", "--temperature", "nan"],
        ["run", "m.gguf", "prompt", "--temperature", "-1"],
        ["run", "m.gguf", "prompt", "--top-p", "inf"],
        ["run", "m.gguf", "prompt", "--top-k", "1.5"],
        ["run", "m.gguf", "prompt", "--max-tokens", "0"],
        ["run", "m.gguf", "prompt", "--mirostat", "1"],
        ["run", "m.gguf", "prompt", "--seed", "-1"],
        ["run", "m.gguf", "prompt", "--logit-bias", "5"],
        ["run", "m.gguf", "prompt", "--logit-bias", "x=1"],
        ["run", "m.gguf", "prompt", "--logit-bias", "1=2", "--logit-bias", "1=3"],
        ["run", "m.gguf", "prompt", "--stop", ""],
        ["run", "m.gguf", "prompt", "--logprobs", "3"],
        ["run", "m.gguf", "prompt", "--raw", "--system", "x"],
        ["run", "m.gguf", "prompt", "--threads", "0"],
        ["run", "m.gguf", "prompt", "--context", "999999999"],
        ["run", "m.gguf", "prompt", "--device", "gpu"],
        ["run", "m.gguf", ""],
        ["run", "m.gguf", "  "],
        ["run", "m.gguf", "\udcff"],
        ["run", "m.gguf", "x", "--system", "\udcff"],
        ["bench", "m.gguf", "--prefill", "1,x"],
        ["bench", "m.gguf", "--prefill", "0", "--decode", "0"],
        ["bench", "m.gguf", "--threads", "0"],
        ["bench", "m.gguf", "--repetitions", "0"],
        ["bench", "m.gguf", "--chunk", "0"],
        ["perplexity", "m.gguf"],
        ["perplexity", "m.gguf", "f.txt", "--context", "3"],
    ],
)
def test_wrong_usage_is_exit_code_2(invoke: Invoke, args: list[str]) -> None:
    result = invoke(*args)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    if args and args[0] in COMMANDS:
        assert result.stdout == ""
        options = [arg for arg in args if arg.startswith("--")]
        if options and options[-1] != "--no-such-option":
            assert any(option in result.stderr for option in options), "the option is named"


def test_a_near_command_is_suggested(invoke: Invoke) -> None:
    assert "No such command" in invoke("rnu").stderr


def test_the_devices_are_the_same_everywhere(invoke: Invoke) -> None:
    from tektra.backends.select import DEVICES as selectable
    from tektra.config import DEVICES

    assert tuple(selectable) == DEVICES
    refused = invoke("run", "m.gguf", "x", "--device", "abacus")
    assert refused.exit_code == 2
    assert f"Invalid value for '--device': 'abacus' is none of {', '.join(DEVICES)}\n" in (
        refused.stderr
    )
    for name in DEVICES:
        assert name in invoke("run", "--help").stdout

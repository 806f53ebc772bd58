"""`tektra run` with a prompt: what goes to the model, what goes to which stream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Invoke
from tests.cli.fake_llm import FakeLLM
from tests.fixtures.tiny_model import write_tiny_model

from tektra import LLM
from tektra.engine.sampling_params import SamplingParams


def test_the_answer_goes_to_standard_output(invoke: Invoke, fake: list[FakeLLM]) -> None:
    result = invoke("run", "m.gguf", "hello there")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "HELLO THERE\n", "")
    assert fake[0].requests == [[{"role": "user", "content": "hello there"}]]
    assert fake[0].params == [SamplingParams()]
    assert fake[0].closed


def test_the_prompt_may_come_from_a_pipe(invoke: Invoke, fake: list[FakeLLM]) -> None:
    assert invoke("run", "m.gguf", input="zwei\nZeilen é\n").stdout == "ZWEI\nZEILEN É\n"
    assert invoke("run", "m.gguf", "-", input="dash\r\n").stdout == "DASH\n"
    assert fake[0].requests[0][-1]["content"] == "zwei\nZeilen é"
    assert fake[1].requests[0][-1]["content"] == "dash"
    assert invoke("run", "m.gguf", "given", input="ignored").stdout == "GIVEN\n"


@pytest.mark.parametrize("data", [b"", b"\n", b" \n\t", b"\xff\xfe"])
def test_a_pipe_without_a_prompt_is_wrong_usage(
    invoke: Invoke, fake: list[FakeLLM], data: bytes
) -> None:
    result = invoke("run", "m.gguf", input=data)
    assert result.exit_code == 2
    assert "standard input" in result.stderr
    assert not fake, "the model is not loaded for nothing"


def test_system_prompt_and_raw(invoke: Invoke, fake: list[FakeLLM]) -> None:
    invoke("run", "m.gguf", "hi", "--system", "be brief")
    invoke("run", "m.gguf", "Once upon", "--raw")
    assert fake[0].requests == [
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    ]
    assert fake[1].requests == ["Once upon"]


def test_every_option_reaches_the_parameters(invoke: Invoke, fake: list[FakeLLM]) -> None:
    options = {
        "--max-tokens": "9", "--min-tokens": "1", "--temperature": "0.5", "--top-k": "7",
        "--top-p": "0.5", "--min-p": "0.1", "--typical-p": "0.9", "--repetition-penalty": "1.1",
        "--presence-penalty": "0.2", "--frequency-penalty": "0.3", "--penalty-last-n": "64",
        "--dry-multiplier": "0.8", "--dry-base": "1.5", "--dry-allowed-length": "3",
        "--dry-penalty-last-n": "128", "--dry-sequence-breakers": ";", "--xtc-probability": "0.5",
        "--xtc-threshold": "0.2", "--mirostat": "2", "--mirostat-tau": "4", "--mirostat-eta": "0.2",
        "--logit-bias": "5=-inf", "--seed": "42", "--logprobs": "2", "--stop": "END",
        "--stop-token-ids": "3",
    }  # fmt: skip
    args = [word for pair in options.items() for word in pair]
    result = invoke(
        "run", "m.gguf", "x", *args, "--ignore-eos", "--stop", "###", "--stop-token-ids", "4",
        "--logit-bias", "6=1.5", "--json",
    )  # fmt: skip
    assert result.exit_code == 0
    assert fake[0].params == [
        SamplingParams(
            max_tokens=9, min_tokens=1, temperature=0.5, top_k=7, top_p=0.5, min_p=0.1,
            typical_p=0.9, repetition_penalty=1.1, presence_penalty=0.2, frequency_penalty=0.3,
            penalty_last_n=64, dry_multiplier=0.8, dry_base=1.5, dry_allowed_length=3,
            dry_penalty_last_n=128, dry_sequence_breakers=(";",), xtc_probability=0.5,
            xtc_threshold=0.2, mirostat=2, mirostat_tau=4.0, mirostat_eta=0.2,
            logit_bias={5: float("-inf"), 6: 1.5}, seed=42, logprobs=2, stop=("END", "###"),
            stop_token_ids=(3, 4), ignore_eos=True,
        )
    ]  # fmt: skip
    default = SamplingParams()
    for name in SamplingParams.parameter_names():
        assert getattr(fake[0].params[0], name) != getattr(default, name), f"{name} was not tried"


def test_options_that_are_not_given_are_what_the_model_recommends(
    invoke: Invoke, fake: list[FakeLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeLLM, "recommended", {"temperature": 0.2, "top_p": 0.9})
    invoke("run", "m.gguf", "x")
    invoke("run", "m.gguf", "x", "--temperature", "0.8", "--seed", "4")
    assert fake[0].params == [SamplingParams(temperature=0.2, top_p=0.9)]
    assert fake[1].params == [SamplingParams(temperature=0.8, top_p=0.9, seed=4)]


def test_one_person_needs_room_for_one_request(invoke: Invoke, fake: list[FakeLLM]) -> None:
    invoke("run", "m.gguf", "x")
    assert fake[0].options["max_batch"] == 1


def test_load_options_come_from_options_before_the_environment(
    invoke: Invoke, fake: list[FakeLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEKTRA_DEVICE", "reference")
    monkeypatch.setenv("TEKTRA_THREADS", "3")
    monkeypatch.setenv("TEKTRA_CONTEXT", "99")
    invoke("run", "m.gguf", "x")
    invoke("run", "m.gguf", "x", "--threads", "1", "--context", "50")
    first, second = fake[0].options, fake[1].options
    assert (first["device"].name, first["threads"], first["context"]) == ("reference", 3, 99)
    assert (second["threads"], second["context"]) == (1, 50)


def test_a_bad_environment_variable_is_named(
    invoke: Invoke, fake: list[FakeLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEKTRA_THREADS", "many")
    result = invoke("run", "m.gguf", "x")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: TEKTRA_THREADS:")


def test_json_is_one_object_and_nothing_else(invoke: Invoke, fake: list[FakeLLM]) -> None:
    result = invoke("run", "m.gguf", "one two", "--json", "--seed", "5", "--verbose")
    answer = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert answer["model"] == "m.gguf"
    assert answer["text"] == "ONE TWO"
    assert answer["finish_reason"] == "stop"
    assert (answer["prompt_tokens"], answer["completion_tokens"]) == (7, 2)
    assert answer["seed"] == 5
    assert answer["timings"]["total_s"] == 1.0
    assert "logprobs" not in answer
    assert "answer 2 tokens" in result.stderr


def test_verbose_is_a_line_on_standard_error(invoke: Invoke, fake: list[FakeLLM]) -> None:
    result = invoke("run", "m.gguf", "x", "--verbose", "-n", "1")
    assert result.stdout == "X\n"
    assert len(result.stderr.splitlines()) == 1
    assert "first token 0.250 s" in result.stderr


def test_a_pipe_gets_the_bytes_of_the_model(
    invoke: Invoke, fake: list[FakeLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEKTRA_TEST_SCRIPT", r"red \e[31m alert")
    assert invoke("run", "m.gguf", "x").stdout == "red \x1b[31m alert\n"


def test_an_error_has_message_remedy_and_exit_code_1(invoke: Invoke, fake: list[FakeLLM]) -> None:
    result = invoke("run", "m.gguf", "this is too long")
    assert (result.exit_code, result.stdout) == (1, "")
    first, second = result.stderr.strip().splitlines()
    assert first == "error: the prompt has 100 tokens and the context holds 64"
    assert second.startswith("  shorten the prompt")


# With real models


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing.gguf", "there is no file"),
        (lambda folder: folder, "holds no model"),
        (lambda folder: _written(folder / "empty.gguf", b""), "is empty"),
        (lambda folder: _written(folder / "text.gguf", b"not a model" * 9), "text.gguf"),
        (lambda folder: _written(folder / "short.gguf", b"GGUF\x03\0\0\0"), "short.gguf"),
        (lambda folder: "smolm2", "did you mean smollm2:135m"),
        (lambda folder: "hf:o/r/m.gguf", "not available in this version"),
        (lambda folder: folder / "\x1b[31mred.gguf", "control characters"),
    ],
)
@pytest.mark.parametrize("command", ["run", "show", "bench", "perplexity"])
def test_what_is_no_model(
    invoke: Invoke, tmp_path: Path, command: str, make: object, message: str
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    reference = str(make(folder))  # type: ignore[operator]
    text = _written(tmp_path / "text.txt", b"text")
    more = {"run": ["prompt"], "perplexity": [str(text)]}.get(command, [])
    result = invoke(command, reference, *more)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert "\x1b" not in result.stderr


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_tiny_model_answers_as_the_api_does(invoke: Invoke, tiny_path: Path) -> None:
    args = ("--temperature", "0", "-n", "8", "--ignore-eos", "--threads", "1")
    result = invoke("run", tiny_path, "hello", *args, "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    with LLM(tiny_path, threads=1) as llm:
        expected = llm.chat(
            [{"role": "user", "content": "hello"}],
            SamplingParams.greedy(max_tokens=8, ignore_eos=True),
        )
    assert answer["text"] == expected.text
    assert answer["token_ids"] == expected.token_ids
    assert answer["completion_tokens"] == 8
    assert invoke("run", tiny_path, "hello", *args).stdout.rstrip("\n") == expected.text.rstrip(
        "\n"
    )


def test_logprobs_are_in_the_json(invoke: Invoke, tiny_path: Path) -> None:
    result = invoke(
        "run", tiny_path, "hello", "-n", "2", "--ignore-eos", "--json", "--logprobs", "3"
    )
    records = json.loads(result.stdout)["logprobs"]
    assert [len(record["top"]) for record in records] == [3, 3]


def test_a_model_without_a_template_says_raw(invoke: Invoke, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "plain.gguf", template=None)
    result = invoke("run", path, "hello", "-n", "2")
    assert result.exit_code == 1
    assert "--raw" in result.stderr
    assert invoke("run", path, "hello", "-n", "2", "--raw").exit_code == 0


def test_a_device_that_is_not_there(invoke: Invoke, tiny_path: Path) -> None:
    result = invoke("run", tiny_path, "hello", "--device", "cuda")
    assert result.exit_code == 1
    assert "CUDA" in result.stderr


def test_a_context_beyond_the_models_own(invoke: Invoke, tiny_path: Path) -> None:
    result = invoke("run", tiny_path, "hello", "--context", "100000")
    assert result.exit_code == 1
    assert "context" in result.stderr

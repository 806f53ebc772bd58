"""`tektra perplexity`: the definition, against a plain reckoning of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.cli.conftest import Invoke
from tests.fixtures.tiny_model import write_tiny_model

from tektra import LLM
from tektra.cli.perplexity_runner import measure_perplexity, window_tokens
from tektra.errors import InvalidParameterError

TEXT = "hello world, the other hello. " * 8


class Bigram:
    """A model whose probabilities are known: token b follows a with weight 1 + (a * b) % 5."""

    vocab = 7

    def __init__(self, bos: int | None = None) -> None:
        self.bos = bos
        self.scored: list[list[int]] = []

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        ids = [ord(c) % self.vocab for c in text]
        return [self.bos, *ids] if add_special and self.bos is not None else ids

    def probability(self, token: int, after: int) -> float:
        weights = [1 + (after * b) % 5 for b in range(self.vocab)]
        return weights[token] / sum(weights)

    def score(self, tokens: list[int]) -> NDArray[np.float32]:
        self.scored.append(tokens)
        rows = [[math.log(self.probability(b, a)) for b in range(self.vocab)] for a in tokens]
        return np.array(rows, np.float32)


@pytest.mark.parametrize("bos", [None, 5])
@pytest.mark.parametrize("window", [4, 7, 16])
def test_against_the_definition(bos: int | None, window: int) -> None:
    model, text = Bigram(bos), "the text that is scored, in windows"
    result = measure_perplexity(cast(LLM, model), text, window=window)
    tokens = model.tokenize(text)
    surprises = []
    for start in range(0, len(tokens) // window * window, window):
        part = tokens[start : start + window]
        if bos is not None:
            part[0] = bos
        for i in range(window // 2 + 1, window):
            surprises.append(-math.log(model.probability(part[i], part[i - 1])))
    n = len(surprises)
    mean = sum(surprises) / n
    variance = sum((s - mean) ** 2 for s in surprises) / (n - 1)
    assert result.scored_tokens == n
    assert result.windows == len(tokens) // window
    assert result.tokens == len(tokens)
    assert result.perplexity == pytest.approx(math.exp(mean), rel=1e-6)
    assert result.standard_error == pytest.approx(
        math.exp(mean) * math.sqrt(variance / n), rel=1e-5
    )
    assert result.beginning_of_sequence == (bos is not None)
    assert bos is None or {part[0] for part in model.scored} == {bos}


def test_a_rest_is_left_out() -> None:
    assert window_tokens(list(range(10)), 4, None) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert window_tokens(list(range(8)), 4, 99) == [[99, 1, 2, 3], [99, 5, 6, 7]]


def test_a_text_that_is_too_short() -> None:
    with pytest.raises(InvalidParameterError, match="fewer than a window"):
        measure_perplexity(cast(LLM, Bigram()), "abc", window=4)


@pytest.mark.parametrize("add_bos", [False, True])
def test_the_command(invoke: Invoke, tmp_path: Path, add_bos: bool) -> None:
    model = write_tiny_model(tmp_path / "m.gguf", add_bos=add_bos)
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    result = invoke("perplexity", model, text, "--context", "32", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["window"] == 32
    assert report["beginning_of_sequence"] is add_bos
    # The window's log-probabilities from the API, reckoned by hand.
    with LLM(model) as llm:
        tokens = llm.tokenize(TEXT)
        part = [0, *tokens[1:32]] if add_bos else tokens[:32]
        rows = llm.score(part)
    first = [-float(rows[i - 1, part[i]]) for i in range(17, 32)]
    one = invoke("perplexity", model, _first(tmp_path, tokens, model), "--context", "32", "--json")
    assert json.loads(one.stdout)["mean_surprise"] == pytest.approx(np.mean(first), rel=1e-5)
    shown = invoke("perplexity", model, text, "--context", "32").stdout
    assert shown.startswith(f"perplexity {report['perplexity']:.4f} ± ")


def _first(folder: Path, tokens: list[int], model: Path) -> Path:
    """A text of about one window and a half."""
    with LLM(model) as llm:
        path = folder / "first.txt"
        path.write_text(llm.detokenize(tokens[:48]))
    return path


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "fewer than a window"), (b"short", "fewer than a window"), (b"\xff" * 99, "not UTF-8")],
)
def test_texts_that_cannot_be_used(
    invoke: Invoke, tiny_path: Path, tmp_path: Path, data: bytes, message: str
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    result = invoke("perplexity", tiny_path, path, "--context", "64")
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_file_that_is_not_there(invoke: Invoke, tiny_path: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.txt", tmp_path):
        result = invoke("perplexity", tiny_path, path)
        assert result.exit_code == 1
        assert "cannot be read" in result.stderr

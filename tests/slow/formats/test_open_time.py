"""A vocabulary of 262,144 tokens does not make a file slow to open."""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

import gguf
import pytest

from tektra.formats import GGUFFile

VOCAB = 262_144
LIMIT_MS = 50


@pytest.fixture(scope="module")
def big_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(1)
    letters = "abcdefgh \u00e9\u65e5\u672c\u0120\u00c2"
    path = tmp_path_factory.mktemp("vocab") / "big.gguf"
    tokens = [
        "".join(rng.choices(letters, k=rng.randint(1, 14))) + str(i) for i in range(VOCAB - 1)
    ]
    tokens.append("<long>" * 100)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(-i) for i in range(VOCAB)])
    writer.add_token_types([1] * VOCAB)
    writer.add_token_merges([f"{token} {token}" for token in tokens])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with GGUFFile.open(path) as model:
        assert model.metadata["tokenizer.ggml.tokens"] == tokens
        assert model.metadata["tokenizer.ggml.scores"][-1] == -(VOCAB - 1.0)  # type: ignore[index]
    return path


def test_opens_fast(big_vocabulary: Path) -> None:
    times = []
    for _ in range(15):
        started = time.perf_counter()
        with GGUFFile.open(big_vocabulary):
            times.append(1000 * (time.perf_counter() - started))
    assert statistics.median(times) < LIMIT_MS

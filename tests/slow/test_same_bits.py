"""SmolLM2-135M gives the same logits to the bit however it is asked: with any number of threads, in
any chunks, with attention cut or not, in company, and from the prefix cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.backends.steps import Piece, make_step, num_blocks, run_text

from tektra import LLM
from tektra.backends.base import CompileOptions, Executable
from tektra.backends.cpu import CpuBackend, native_core
from tektra.config import KV_TYPES
from tektra.formats.gguf import GGUFFile
from tektra.models.base import draw

core = native_core()
pytestmark = pytest.mark.skipif(core is None, reason="the native core is not built")

ISAS = [isa for isa in core.compiled_isas() if core.runs_here(isa)] if core else []
FAST_ISAS = [isa for isa in ISAS if isa != "scalar"]  # which takes minutes; see TINY below
NUM_BLOCKS = 128
SHORT, LONG = 600, 2200  # three splits of attention, and nine
THREADS = (1, 2, 3)
Floats = NDArray[np.float32]
Compile = Callable[[str, int], Executable]


@pytest.fixture(scope="module", params=KV_TYPES)
def compile_real(request: pytest.FixtureRequest, smollm2_path: Path) -> Iterator[Compile]:
    made: list[Executable] = []

    def compile(isa: str, threads: int) -> Executable:
        while made:
            made.pop().close()
        options = CompileOptions(
            num_threads=threads,
            max_rows=512,
            max_outputs=8,
            num_kv_blocks=NUM_BLOCKS,
            kv_type=request.param,
        )
        with GGUFFile.open(smollm2_path) as file:
            graph = draw(file.metadata, file.tensors).graph
            made.append(CpuBackend(isa=isa).compile(graph, file, options))
        return made[-1]

    yield compile
    for executable in made:
        executable.close()


@pytest.fixture(scope="module")
def text() -> list[int]:
    ids: list[int] = np.random.default_rng(1).integers(17, 49000, LONG).tolist()
    return ids


def equal(got: Floats, expected: Floats) -> None:
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("isa", FAST_ISAS)
def test_threads_chunks_and_company(compile_real: Compile, text: list[int], isa: str) -> None:
    short, rows = text[:SHORT], (0, 31, 32, 255, 256, 511, 512, SHORT - 2, SHORT - 1)
    expected: Floats | None = None
    for threads in THREADS:
        executable = compile_real(isa, threads)
        for chunk in (512, 64, 7, 1):  # 1 cuts attention into splits that run side by side
            got = run_text(executable, short, rows, chunk=chunk)
            expected = got if expected is None else expected
            equal(got, expected)
        # the other half of the cache has a second text, of which a chunk comes along each time
        mine, other = range(num_blocks(SHORT)), range(64, 64 + num_blocks(SHORT))
        at = 0
        for size in (200, 200, 150, 49, 1):
            pieces = [
                Piece(text[1000 + at : 1000 + at + size], other, at),
                Piece(short[at : at + size], mine, at, [size - 1]),
            ]
            got = executable.run(make_step(pieces)).copy()
            at += size
        assert expected is not None
        equal(got[0], expected[-1])


@pytest.mark.parametrize("isa", FAST_ISAS)
def test_a_long_context(compile_real: Compile, text: list[int], isa: str) -> None:
    rows = (0, 511, 512, 1023, 2047, 2048, LONG - 1)
    expected: Floats | None = None
    for threads in THREADS:
        executable = compile_real(isa, threads)
        for chunk in (512, 300):
            got = run_text(executable, text, rows, chunk=chunk)
            expected = got if expected is None else expected
            equal(got, expected)
        last = Piece(text[-1:], range(num_blocks(LONG)), LONG - 1, [0])
        assert expected is not None
        equal(executable.run(make_step([last]))[0], expected[-1])


def test_the_prefix_cache(smollm2_path: Path, text: list[int]) -> None:
    """A prompt is computed, then found in the cache, then computed where there is none."""
    for prompt in (text[:100], text[:SHORT]):
        answers = []
        with LLM(smollm2_path, device="cpu", prefix_cache=True) as llm:
            answers += [llm.generate(prompt, temperature=0.0, max_tokens=8, logprobs=5)]
            answers += [llm.generate(prompt, temperature=0.0, max_tokens=8, logprobs=5)]
        with LLM(smollm2_path, device="cpu", prefix_cache=False, threads=1) as llm:
            answers += [llm.generate(prompt, temperature=0.0, max_tokens=8, logprobs=5)]
        first, hit, alone = answers
        assert (first.cached_tokens, alone.cached_tokens) == (0, 0)
        assert hit.cached_tokens == (len(prompt) - 1) // 32 * 32
        assert first.token_ids == hit.token_ids == alone.token_ids
        assert first.logprobs == hit.logprobs == alone.logprobs

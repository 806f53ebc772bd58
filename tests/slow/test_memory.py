"""Memory of SmolLM2-135M on the CPU: the plan holds, closing gives it back, nothing leaks.

Resident memory is read from /proc, so this is for Linux.
"""

from __future__ import annotations

import gc
import re
from pathlib import Path

import numpy as np
import pytest

from tektra import LLM
from tektra.backends.cpu import native_core

pytestmark = [
    pytest.mark.skipif(native_core() is None, reason="the native core is not built"),
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux"),
]

MIB = 2**20


def resident(kind: str = "RssAnon") -> float:
    """MiB of this process that are in memory."""
    gc.collect()
    match = re.search(rf"^{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match
    return int(match[1]) / 1024


@pytest.fixture(scope="module", autouse=True)
def warm(smollm2_path: Path) -> None:
    """What Python and its libraries take for good is taken before anything is measured."""
    with LLM(smollm2_path, device="cpu", context=512) as llm:
        llm.generate("Once upon a time", max_tokens=4)


def test_the_plan_is_a_ceiling(smollm2_path: Path) -> None:
    """A run over the full context takes what was planned, and little besides."""
    before = resident()
    with LLM(smollm2_path, device="cpu", context=4096, max_batch=1) as llm:
        planned = sum(llm.stats().memory.values()) / MIB
        prompt = np.random.default_rng(0).integers(17, 49000, 4090).tolist()
        llm.generate(prompt, max_tokens=6, ignore_eos=True)
        grown = resident() - before
    # tokenizer and template, with Python objects for 49152 tokens and as many merges
    assert planned * 0.8 < grown < planned + 60, f"planned {planned:.0f}, grown {grown:.0f} MiB"


def test_the_file_is_let_go(smollm2_path: Path) -> None:
    with LLM(smollm2_path, device="cpu", context=512):
        assert smollm2_path.name not in Path("/proc/self/maps").read_text()


def test_closing_gives_memory_back(smollm2_path: Path) -> None:
    before = resident()
    llm = LLM(smollm2_path, device="cpu", context=2048, max_batch=1)
    llm.generate([17] * 2000, max_tokens=4, ignore_eos=True)
    loaded = resident()
    llm.close()
    closed = resident()
    assert loaded - before > 120
    # the tokenizer stays while the object does
    assert closed - before < 45, f"{before:.0f} MiB, loaded {loaded:.0f}, closed {closed:.0f}"


def test_loading_again_and_again(smollm2_path: Path) -> None:
    sizes = []
    for _ in range(50):
        with LLM(smollm2_path, device="cpu", context=512, max_batch=1) as llm:
            llm.generate("Hello", max_tokens=1)
        sizes.append(resident())
    assert sizes[-1] - sizes[9] < 8, f"grows: {sizes[::10]}"


def test_many_short_requests(smollm2_path: Path) -> None:
    """The cache fills in the first part; after that nothing may grow."""
    rng = np.random.default_rng(0)
    with LLM(smollm2_path, device="cpu", context=512, max_batch=8) as llm:
        sizes = []
        for _ in range(20):
            prompts = [rng.integers(17, 49000, rng.integers(1, 40)).tolist() for _ in range(100)]
            llm.generate(prompts, max_tokens=2, ignore_eos=True)
            sizes.append(resident())
        assert llm.stats().requests_finished == 2000
        assert llm.stats().kv_blocks_used == 0
    assert sizes[-1] - sizes[9] < 6, f"grows: {sizes[::4]}"

"""How fast are vectors of texts made, beside sentence-transformers and transformers, and are they
the same?

All stay loaded and take turns; the figures are medians, and ratios of neighbouring runs. The model
is a sentence-transformers directory; the peers run in an environment of their own, installed on
first use, or in the one of ``--python``.

    python -m benchmarks.embed DIRECTORY [--threads 2] [--rounds 15] [--python PY] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common import add_common_options, render_table, report, write_report
from benchmarks.peers.environments import sentence_python

from tektra import LLM

PEERS = ("sentence-transformers", "transformers")
SENTENCE = (
    "the river bank was quiet while a small boat carried bread and letters to people who had "
    "waited since early morning for news from the other side of the valley"
)
REST = 0.05  # seconds before each piece of work: threads of the one before may still spin


def texts_of(tokens: list[int]) -> list[str]:
    """A text of about so many tokens each: common words are a token each."""
    words = SENTENCE.split()
    return [
        " ".join(words[(7 * i + k) % len(words)] for k in range(n)) for i, n in enumerate(tokens)
    ]


def cases() -> dict[str, list[str]]:
    """What is measured: one text, and 32 of one length or of many."""
    rng = np.random.default_rng(0)
    mixed = np.clip(rng.lognormal(3.3, 0.8, 32), 3, 200).astype(int).tolist()
    return {
        "1 text of 14 tokens": texts_of([12]),
        "1 text of 128 tokens": texts_of([126]),
        "32 texts of 32 tokens": texts_of([30] * 32),
        "32 texts of 128 tokens": texts_of([126] * 32),
        f"32 texts of {min(mixed) + 2} to {max(mixed) + 2} tokens": texts_of(mixed),
    }


VARIED = [
    "",
    "Hello, World!",
    "na\u00efve caf\u00e9 \u65e5\u672c\u8a9e \u4e2d\u6587 \u0645\u0631\u062d\u0628\u0627",
    "\U0001f642 emoji \u200b and\u00a0spaces \t tabs",
    "[CLS] [MASK] special [SEP]",
    "x" * 300,
    " ".join(str(i * 7919) for i in range(300)),
    "def f(x):\n    return x ** 2  # code",
]


class Peer:
    """The peers, in a process of their own."""

    def __init__(self, python: Path, folder: Path, threads: int) -> None:
        script = Path(__file__).parent / "peers" / "worker_sentence.py"
        self._process = subprocess.Popen(
            [str(python), str(script), str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.version = self._answer()

    def ask(self, *words: object) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write("\t".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise SystemExit("the peer stopped without an answer")
        return line


def measure(llm: LLM, peer: Peer, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Milliseconds of each case, all taking turns."""
    results: list[dict[str, Any]] = []
    for name, texts in cases().items():
        path = folder / "texts.json"
        path.write_text(json.dumps(texts))
        times: dict[str, list[float]] = {"tektra": [], **{kind: [] for kind in PEERS}}
        for turn in range(rounds + 2):
            time.sleep(REST)
            start = time.perf_counter()
            llm.embed(texts, truncate=True)
            taken = {"tektra": time.perf_counter() - start}
            for kind in PEERS:
                time.sleep(REST)
                taken[kind] = float(peer.ask(kind, len(texts), path))
            if turn >= 2:  # the first ones warm up
                for kind, seconds in taken.items():
                    times[kind].append(1e3 * seconds)
        best = {
            kind: statistics.median(
                theirs / ours for theirs, ours in zip(times[kind], times["tektra"], strict=True)
            )
            for kind in PEERS
        }
        results.append(
            {
                "case": name,
                "milliseconds": {kind: statistics.median(t) for kind, t in times.items()},
                "times_as_fast": best,
            }
        )
    return results


def smallest_cosine(llm: LLM, peer: Peer, folder: Path) -> float:
    """Of our vector and the peer's, over all texts that are measured and some odd ones."""
    texts = [*VARIED, *(text for group in cases().values() for text in group)]
    (folder / "texts.json").write_text(json.dumps(texts))
    peer.ask("vectors", folder / "texts.json", folder / "vectors.npy")
    theirs = np.load(folder / "vectors.npy").astype(np.float64)
    ours = llm.embed(texts, truncate=True).astype(np.float64)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(axis=1) / lengths).min())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--python", type=Path, help="an environment that has the peers already")
    add_common_options(parser)
    options = parser.parse_args()
    peer = Peer(options.python or sentence_python(), options.model, options.threads)
    with LLM(options.model, threads=options.threads) as llm, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cosine = smallest_cosine(llm, peer, folder)
        results = measure(llm, peer, options.rounds, folder)
    peer.close()
    header = ["case", "tektra, ms", *(f"{k}, ms (times as fast)" for k in PEERS)]
    rows = [
        [
            r["case"],
            f"{r['milliseconds']['tektra']:.2f}",
            *(f"{r['milliseconds'][k]:.2f} ({r['times_as_fast'][k]:.2f})" for k in PEERS),
        ]
        for r in results
    ]
    print(render_table(header, rows))
    print(f"smallest cosine to sentence-transformers: {cosine:.9f}   ({peer.version})")
    question = "How fast are vectors of texts made, and are they the reference pipeline's?"
    contents = report(
        question, options.threads, results, peers=peer.version, smallest_cosine=cosine
    )
    write_report(options.json, contents)


if __name__ == "__main__":
    main()

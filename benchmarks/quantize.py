"""Files that Tektra quantizes beside those that llama.cpp makes of the same source.

    python -m benchmarks.quantize source-f16.gguf [--imatrix FILE] [--types q4_k_m,q8_0]

For each mix both quantize the source, one after the other, on as many threads. Compared are the
types of all tensors, the mean squared errors of the weights, the perplexity of texts (both files
run in Tektra), and the seconds. The texts are those of `benchmarks.accuracy` and pages of this
project's documentation, in windows; of the ratio of perplexities the standard error is given, from
the differences token by token. Of one file the greedy tokens after three prompts are compared too,
as Tektra and as llama.cpp continue them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.accuracy import TEXTS
from benchmarks.common import ROOT, add_common_options, report, write_report
from benchmarks.peers.environments import llama_cpp_python
from numpy.typing import NDArray

WORKER = ROOT / "benchmarks" / "peers" / "quantize_llama_cpp.py"
PROMPTS = (
    "The capital of France is",
    "def mean(values):\n    total = 0.0\n",
    "In winter the lake freezes from its edges inward, because",
)
WINDOW = 512
PAGES = ("structure.md", "embedding.md", "add_a_kernel.md")
DEFAULT = "q8_0,q6_k,q5_k_m,q5_k_s,q5_1,q5_0,q4_k_m,q4_k_s,q4_1,q4_0,iq4_nl,iq4_xs,q3_k_m,q2_k"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--imatrix", type=Path)
    parser.add_argument("--types", default=DEFAULT)
    parser.add_argument("--greedy", default="q4_k_m", help="the mix whose tokens are compared")
    parser.add_argument("--python", type=Path, help="of an environment with llama-cpp-python")
    add_common_options(parser)
    args = parser.parse_args()
    if args.isa:
        os.environ["TEKTRA_ISA"] = args.isa
    python, threads = args.python or llama_cpp_python(args.isa), args.threads
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=args.source.parent) as folder:
        base = math.exp(surprises(args.source).mean())
        print(f"source: perplexity {base:.4f}", file=sys.stderr)
        for mix in args.types.split(","):
            row = one(args.source, mix, Path(folder), threads, python, args.imatrix)
            rows.append(row)
            print(show(row), file=sys.stderr)
        greedy = tokens(args.source, args.greedy, Path(folder), threads, python)
    contents = report(
        "quantized files beside llama.cpp's of the same source",
        threads,
        rows,
        source=args.source.name,
        importance=args.imatrix is not None,
        source_perplexity=base,
        greedy={"mix": args.greedy, "prompts": greedy},
    )
    for row in greedy:
        print(json.dumps(row))
    write_report(args.json, contents)


def one(
    source: Path, mix: str, folder: Path, threads: int, python: Path, imatrix: Path | None
) -> dict[str, Any]:
    """Both quantize the source to a mix; what came of it."""
    import tektra
    from tektra.formats.gguf import GGUFFile
    from tektra.quantize.imatrix import ImportanceMatrix
    from tektra.quantize.recipe import MIXES

    ours, theirs = folder / "ours.gguf", folder / "theirs.gguf"
    given = []
    if imatrix is not None:
        entries = ImportanceMatrix.read(imatrix).entries
        arrays = {n: (e.sums / e.counts[:, None]).reshape(-1) for n, e in entries.items()}
        np.savez(folder / "importance.npz", **arrays)  # type: ignore[arg-type]
        given = [str(folder / "importance.npz")]
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(2):
        start = time.perf_counter()
        tektra.quantize_model(source, ours, mix, imatrix=imatrix, threads=threads, force=True)
        seconds["ours"].append(time.perf_counter() - start)
        command = [python, WORKER, "quantize", source, theirs, MIXES[mix].file_type, threads]
        run = subprocess.run([*map(str, command), *given], capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(run.stderr[-2000:])
        seconds["theirs"].append(json.loads(run.stdout.splitlines()[-1])["seconds"])
    errors = [0.0, 0.0]
    different = {}
    with GGUFFile.open(source) as s, GGUFFile.open(ours) as a, GGUFFile.open(theirs) as b:
        for name, info in s.tensors.items():
            if a.tensors[name].type is not b.tensors[name].type:
                different[name] = [a.tensors[name].type.name, b.tensors[name].type.name]
            elif len(info.shape) > 1:
                weights = s.dequantize(name)
                for at, file in enumerate((a, b)):
                    rest = (file.dequantize(name) - weights).astype(np.float64)
                    errors[at] += float((rest * rest).sum())
    mine, other = surprises(ours), surprises(theirs)
    ratio = math.exp((mine - other).mean())
    return {
        "mix": mix,
        "different_types": different,
        "error_ratio": math.sqrt(errors[0] / errors[1]) if errors[1] else 1.0,
        "perplexity": math.exp(mine.mean()),
        "perplexity_llama_cpp": math.exp(other.mean()),
        "perplexity_ratio": ratio,
        "standard_error": float(ratio * (mine - other).std() / math.sqrt(len(mine))),
        "seconds": min(seconds["ours"]),
        "seconds_llama_cpp": min(seconds["theirs"]),
        "bytes": [ours.stat().st_size, theirs.stat().st_size],
    }


def surprises(path: Path) -> NDArray[np.float64]:
    """Of each token of the texts, in nats; each text, and each window of a page, by itself."""
    import tektra

    with tektra.LLM(path, packed_cache=False, max_batch=1, context=WINDOW) as llm:
        texts: list[Any] = list(TEXTS)
        for page in PAGES:
            ids = llm.tokenize((ROOT / "docs" / page).read_text("utf-8"))
            texts += [ids[at : at + WINDOW] for at in range(0, len(ids) - 1, WINDOW)]
        return np.concatenate([-llm.score_next(text) for text in texts]).astype(np.float64)


def tokens(
    source: Path, mix: str, folder: Path, threads: int, python: Path
) -> list[dict[str, Any]]:
    """Where Tektra and llama.cpp go on differently, and how near the two choices were."""
    import tektra

    path = folder / "greedy.gguf"
    tektra.quantize_model(source, path, mix, threads=threads)
    command = [str(python), str(WORKER), "greedy", str(path), "32", *PROMPTS]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr[-2000:])
    rows = []
    with tektra.LLM(path, packed_cache=False) as llm:
        for prompt, theirs in zip(PROMPTS, json.loads(run.stdout.splitlines()[-1]), strict=True):
            params = tektra.SamplingParams(temperature=0.0, max_tokens=32, ignore_eos=True)
            made = llm.generate(theirs["prompt"], params).token_ids
            same = next(
                (i for i, (a, b) in enumerate(zip(made, theirs["tokens"], strict=False)) if a != b),
                len(theirs["tokens"]),
            )
            row: dict[str, Any] = {"prompt": prompt, "same_tokens": same}
            row["same_prompt"] = llm.tokenize(prompt, add_special=True) == theirs["prompt"]
            if same < len(theirs["tokens"]):
                row["gap_at_first_difference"] = theirs["gaps"][same]
            rows.append(row)
    return rows


def show(row: dict[str, Any]) -> str:
    return (
        f"{row['mix']:8} perplexity {row['perplexity']:.4f} / {row['perplexity_llama_cpp']:.4f} = "
        f"{row['perplexity_ratio']:.4f} +- {row['standard_error']:.4f}  "
        f"error {row['error_ratio']:.4f}  "
        f"seconds {row['seconds']:.2f} / {row['seconds_llama_cpp']:.2f}  "
        f"other types {len(row['different_types'])}"
    )


if __name__ == "__main__":
    main()

"""Every type of weights beside llama.cpp: prefill and decode on the same small model, in turns.

    python -m benchmarks.quant_types [--types IQ4_XS,MXFP4] [--isa avx2] [--rounds 5] [--json FILE]

For each type a model is written into build/models, once: all its matrices are of this type and
hold random bits, so what it says is noise, and its vocabulary is small, so that the layers are what
is measured. Figures are medians; of ratios, that of neighbouring runs. Types that are not asked for
keep the figures that the file of results has.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, add_common_options, render_table, report, write_report
from benchmarks.make_model import TOKENIZER, Mix, ModelShape, metadata, tensors
from benchmarks.peers.compare import Work, Worker
from benchmarks.peers.environments import llama_cpp_python

from tektra.backends.cpu import CpuBackend
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf import GGUFFile
from tektra.formats.gguf_values import Typed
from tektra.formats.gguf_writer import write_gguf
from tektra.formats.quants import DECODABLE_TYPES
from tektra.hub import resolve

SHAPE = ModelShape(
    architecture="llama",
    hidden=1536,
    ffn=4096,
    layers=4,
    heads=12,
    kv_heads=4,
    vocab=2048,
    tied=False,
    context=2048,
    rope_base=1e4,
)
WORK = (Work("prefill", 512), Work("decode", 32))
TYPES = sorted(t for t in DECODABLE_TYPES if t is not GGMLType.F32)


def model_of(type: GGMLType) -> Path:
    """The model whose matrices are all of this type, written where it is not there yet."""
    path = ROOT / "build" / "models" / f"types-{type.name.lower()}.gguf"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with GGUFFile.open(Path(resolve(TOKENIZER).path)) as tokenizer:
        large = ModelShape(**{**_fields(SHAPE), "vocab": 49_152})
        values = metadata(type.name, large, Mix(type, type, type, 0), tokenizer)
    _shorten(values)
    part = path.with_suffix(".part")
    write_gguf(part, values, tensors(SHAPE, Mix(type, type, type, 0), seed=int(type)))
    part.replace(path)
    return path


def _fields(shape: ModelShape) -> dict[str, Any]:
    return {name: getattr(shape, name) for name in shape.__dataclass_fields__}


def _shorten(values: dict[str, Typed]) -> None:
    """Leaves the first tokens, which hold every byte, and the merges among them."""
    known = set(values["tokenizer.ggml.tokens"].value[: SHAPE.vocab])
    for key, value in values.items():
        if key == "tokenizer.ggml.merges":
            pairs = [pair for pair in value.value if pair.replace(" ", "", 1) in known]
            values[key] = Typed(pairs, value.type)
        elif key.startswith("tokenizer.ggml.") and isinstance(value.value, list | tuple):
            values[key] = Typed(list(value.value)[: SHAPE.vocab], value.type)
    values["llama.vocab_size"] = Typed(SHAPE.vocab, "u32")


def measure(type: GGMLType, isa: str, threads: int, rounds: int) -> dict[str, Any]:
    """Tokens/s of both engines: medians, and the median ratio."""
    arguments = [str(model_of(type)), str(threads), "1024"]
    here = Path(__file__).resolve().parent.parent
    ours = Worker(
        sys.executable, "worker_tektra.py", arguments, TEKTRA_ISA=isa, PYTHONPATH=str(here)
    )
    theirs = Worker(llama_cpp_python(isa), "worker_llama_cpp.py", arguments)
    result: dict[str, Any] = {
        "type": type.name,
        "bits_per_weight": type.bits_per_weight,
        "llama_cpp_version": theirs.version,
    }
    try:
        for work in WORK:
            pairs = []
            for i in range(rounds + 1):
                pair = (ours.run(work), theirs.run(work))
                if i > 0:  # the first of each is slow
                    pairs.append(pair)
            result[work.kind] = {
                "tektra": statistics.median(p[0] for p in pairs),
                "llama_cpp": statistics.median(p[1] for p in pairs),
                "ratio": statistics.median(p[0] / p[1] for p in pairs),
            }
    finally:
        ours.close()
        theirs.close()
    return result


def kept(path: Path | None, isa: str) -> dict[str, dict[str, Any]]:
    """What the file has of earlier runs."""
    if path is None or not path.exists():
        return {}
    contents = json.loads(path.read_text())
    return {r["type"]: r for r in contents["results"]} if contents["isa"] == isa else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_common_options(parser)
    parser.add_argument("--types", default=",".join(t.name for t in TYPES))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    isa = CpuBackend(isa=options.isa or None).isa
    results = kept(options.json, isa)
    for name in options.types.split(","):
        results[name] = measure(GGMLType[name], isa, options.threads, options.rounds)
        print(table([results[name]]), flush=True)
        ordered = [results[t.name] for t in TYPES if t.name in results]
        write_report(options.json, report("quant-types", options.threads, ordered, isa=isa))
    print(table(ordered))


def table(results: list[dict[str, Any]]) -> str:
    head = ["type"]
    for work in WORK:
        head += [str(work), "llama.cpp", "ratio"]
    rows = []
    for r in results:
        row = [r["type"]]
        for work in WORK:
            found = r[work.kind]
            row += [
                f"{found['tektra']:.1f}",
                f"{found['llama_cpp']:.1f}",
                f"{found['ratio']:.2f} x",
            ]
        rows.append(row)
    return render_table(head, rows)


if __name__ == "__main__":
    main()

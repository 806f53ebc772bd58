"""Makes tests/goldens/models/score.npz: SmolLM2's next-token distributions by transformers.

First the whole distributions, in an environment with torch, transformers and the gguf package:

    python benchmarks/accuracy.py oracle SmolLM2-135M-Instruct.Q4_1.gguf oracle.npz
    python tests/goldens/make_score_golden.py oracle.npz

Of each position the most probable tokens are kept, and the mass of all others in one lump. The
divergence of lumped distributions is never larger than that of the whole ones (log sum
inequality), and nearly as large here: how near is printed for a slightly flattened distribution.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OUT = Path(__file__).parent / "models" / "score.npz"
KEPT = 48


def lumped(p: NDArray[np.float64], top: NDArray[Any]) -> NDArray[np.float64]:
    """Log-probabilities of the tokens in ``top``, then that of all the others together."""
    kept = np.take_along_axis(p, top, -1)
    rest = np.log(np.maximum(-np.expm1(np.log(np.exp(kept).sum(-1, keepdims=True))), 1e-12))
    return np.concatenate([kept, rest], -1)


def main() -> None:
    arrays: dict[str, Any] = {}
    with np.load(sys.argv[1]) as oracle:
        for i in range(sum(name.startswith("ids") for name in oracle)):
            ids, p = oracle[f"ids{i}"], oracle[f"logprobs{i}"].astype(np.float64)
            top = np.argsort(-p, axis=-1, kind="stable")[:, :KEPT]
            kept = lumped(p, top)
            flat = 0.95 * p
            flat -= np.log(np.exp(flat).sum(-1, keepdims=True))
            whole = float((np.exp(p) * (p - flat)).sum(-1).mean())
            part = float((np.exp(kept) * (kept - lumped(flat, top))).sum(-1).mean())
            print(f"text {i}: {len(ids)} tokens, lumped / whole divergence {part / whole:.3f}")
            arrays[f"ids{i}"] = ids
            arrays[f"top{i}"] = top.astype(np.uint16)
            arrays[f"logprobs{i}"] = kept.astype(np.float32)
            arrays[f"next{i}"] = p[np.arange(len(ids) - 1), ids[1:]].astype(np.float32)
    OUT.parent.mkdir(exist_ok=True)
    np.savez_compressed(OUT, **arrays)
    print(OUT, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()

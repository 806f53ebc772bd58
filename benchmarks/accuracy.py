"""How near a model's log-probabilities are to those of transformers on the same weights.

In an environment with torch and transformers, which needs nothing of Tektra:

    python -m benchmarks.accuracy oracle model.gguf oracle.npz

then with Tektra:

    python -m benchmarks.accuracy compare model.gguf oracle.npz [--device cpu] [--json]

The oracle dequantizes the GGUF and computes in float32. Compared are the distributions of the next
token at every position: mean Kullback-Leibler divergence KL(oracle || Tektra) in nats, the share
of positions with the same most probable token, and the perplexity of the texts.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

TEXTS = (
    # A story.
    "The lighthouse keeper wrote down the weather every evening: wind from the north-west, a "
    "falling barometer, and two fishing boats that had not yet come back to the harbour. At nine "
    "he lit the lamp and climbed down again to put the kettle on. His daughter was reading by the "
    "stove. She looked up and asked whether the boats were in. Not yet, he said, but the sea is "
    "long and the night is short at this time of the year. An hour later they heard the first "
    "engine, and then the second, and somebody laughing on the pier in the dark.",
    # A program.
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n\n\ndef variance(values):\n    middle = mean(values)\n"
    "    return mean([(value - middle) ** 2 for value in values])\n\n\n"
    'if __name__ == "__main__":\n    numbers = [1, 2, 3, 5, 8, 13]\n'
    '    print("mean:", mean(numbers))\n    print("variance:", variance(numbers))\n',
    # Questions and answers.
    "Question: A train leaves at 9:40 and arrives at 11:05. How long does the journey take?\n"
    "Answer: The journey takes one hour and twenty-five minutes.\n\n"
    "Question: Which is heavier, a kilogram of iron or a kilogram of feathers?\n"
    "Answer: Neither. Both weigh one kilogram, but the feathers take up much more space.\n\n"
    "Question: Why does bread rise?\n"
    "Answer: Yeast eats the sugar in the dough and gives off carbon dioxide. The gas is caught in "
    "the elastic gluten and makes bubbles, so the dough grows.",
    # An explanation.
    "In winter the lake freezes from its edges inward, because shallow water cools faster; the "
    "fish move to the deep middle, where it stays at about four degrees Celsius. Water is densest "
    "at that temperature, so it sinks, and the colder water floats above it until it turns to "
    "ice. The ice then keeps the cold wind away from the water below. If ice were heavier than "
    "water, lakes would freeze from the bottom up, and very little could live in them through the "
    "winter.",
)


def oracle(model: Path, out: Path) -> None:
    """Writes ``ids{i}`` and ``logprobs{i}`` of each text, by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(model.parent), model.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    network = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    network.eval()
    arrays: dict[str, Any] = {}
    for i, text in enumerate(TEXTS):
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = network(ids).logits[0]
        arrays[f"ids{i}"] = ids[0].numpy().astype(np.int32)
        arrays[f"logprobs{i}"] = torch.log_softmax(logits.double(), -1).float().numpy()
    np.savez(out, **arrays)
    print(f"{out}: {sum(len(arrays[f'ids{i}']) for i in range(len(TEXTS)))} positions")


def compare(model: str, reference: Path, device: str, threads: int | None) -> dict[str, float]:
    """The three figures, over all positions of all texts."""
    from tektra import LLM

    divergences, same, losses, own_losses = [], [], [], []
    with LLM(model, device=device, threads=threads) as llm, np.load(reference) as arrays:
        for i in range(len(TEXTS)):
            ids: NDArray[np.int32] = arrays[f"ids{i}"]
            p: F64 = arrays[f"logprobs{i}"].astype(np.float64)
            q: F64 = llm.score(ids.tolist()).astype(np.float64)
            divergences.append((np.exp(p) * (p - q)).sum(-1))
            same.append(p.argmax(-1) == q.argmax(-1))
            at, following = np.arange(len(ids) - 1), ids[1:]
            losses.append(-p[at, following])
            own_losses.append(-q[at, following])
    divergence = np.concatenate(divergences)
    perplexity = math.exp(float(np.concatenate(losses).mean()))
    own = math.exp(float(np.concatenate(own_losses).mean()))
    return {
        "positions": len(divergence),
        "kl_mean": float(divergence.mean()),
        "kl_max": float(divergence.max()),
        "same_top": float(np.concatenate(same).mean()),
        "perplexity": own,
        "perplexity_oracle": perplexity,
        "perplexity_change": own / perplexity - 1.0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    ask = commands.add_parser("oracle", help="compute the truth by transformers")
    ask.add_argument("model", type=Path)
    ask.add_argument("out", type=Path)
    hold = commands.add_parser("compare", help="hold Tektra against it")
    hold.add_argument("model")
    hold.add_argument("oracle", type=Path)
    hold.add_argument("--device", default="auto")
    hold.add_argument("--threads", type=int)
    hold.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.command == "oracle":
        oracle(options.model, options.out)
        return 0
    result = compare(options.model, options.oracle, options.device, options.threads)
    if options.json:
        print(json.dumps({"model": options.model, "device": options.device, **result}))
        return 0
    print(f"positions          {result['positions']}")
    print(f"mean KL divergence {result['kl_mean']:.6f} nats (largest {result['kl_max']:.6f})")
    print(f"same top token     {100 * result['same_top']:.2f} %")
    print(
        f"perplexity         {result['perplexity']:.4f}, oracle {result['perplexity_oracle']:.4f} "
        f"({100 * result['perplexity_change']:+.3f} %)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Is the memory plan kept? Peak resident memory of a load and of a full context, and the plan.

Each is measured in a process of its own, on Linux. What Python and its libraries take without a
model is measured as well and shown beside it.

    python -m benchmarks.memory [MODEL ...] [--context 2048] [--isa avx2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import add_common_options, report, write_report
from benchmarks.models import DEFAULT_MODEL

MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", default=[DEFAULT_MODEL], metavar="MODEL")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    add_common_options(parser)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.models[0], options.context, options.threads)))
        return
    if not Path("/proc/self/status").exists():
        raise SystemExit("resident memory is read from /proc: this needs Linux")
    results = []
    print(f"{'model':<36}{'MiB: plan':>10}{'loaded':>9}{'peak load':>11}{'peak full':>11}"
          f"{'without':>9}")  # fmt: skip
    for model in options.models:
        command = [sys.executable, "-m", "benchmarks.memory", model, "--worker"]
        command += ["--context", str(options.context), "--threads", str(options.threads)]
        environment = {**os.environ, **({"TEKTRA_ISA": options.isa} if options.isa else {})}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        results.append(result)
        columns = ("planned", "loaded", "peak_load", "peak_full")
        print(
            f"{result['model']:<36}"
            + "".join(
                f"{result[name] / MIB:>{width}.0f}"
                for name, width in zip(columns, (10, 9, 11, 11), strict=True)
            )
            + f"{result['without_model'] / MIB:>9.0f}",
            flush=True,
        )
    write_report(
        options.json,
        report("memory", options.threads, results, isa=options.isa, context=options.context),
    )


def worker(reference: str, context: int, threads: int) -> dict[str, Any]:
    """Loads a model, fills its context, and says what that took."""
    import numpy as np

    from tektra import LLM

    without = status("VmHWM")
    with LLM(reference, device="cpu", threads=threads, context=context, max_batch=1) as llm:
        loaded, peak_load = status("VmRSS"), status("VmHWM")
        stats = llm.stats()
        prompt = np.random.default_rng(0).integers(17, 1000, context - 9).tolist()
        llm.generate(prompt, max_tokens=8, ignore_eos=True)
        return {
            "model": Path(reference).name,
            "planned": sum(stats.memory.values()),
            "parts": dict(stats.memory),
            "without_model": without,
            "loaded": loaded,
            "peak_load": peak_load,
            "peak_full": status("VmHWM"),
        }


def status(name: str) -> int:
    """A line of this process' status, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()

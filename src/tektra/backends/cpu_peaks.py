"""What this machine can do at most with the native core: the yardstick of every kernel.

Reading memory, multiply-adds of the instruction set, and the cost of a parallel loop, measured by
the core itself (native/core/machine_peaks.cpp) on the threads that a model would get.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tektra.backends.cpu import native_core
from tektra.errors import DeviceUnavailableError, MemoryLimitError

__all__ = ["PeakMeter", "Peaks", "measure_peaks"]

_LEAST_BUFFER = 256 << 20
_CACHE_MULTIPLE = 4


@dataclass(frozen=True, slots=True)
class Peaks:
    """The best that was seen. An operation is one multiply-add.

    Attributes:
        isa: instruction set of the kernels.
        threads: that took part.
        read_bytes_per_second: reading memory, from a buffer far larger than the caches.
        int8_per_second: multiply-adds of bytes, by the instruction of the quantized linears.
        float_per_second: multiply-adds of float32.
        loop_seconds: what a parallel loop with nothing to do takes.
        meeting_seconds: the same until every thread has come and gone.
    """

    isa: str
    threads: int
    read_bytes_per_second: float
    int8_per_second: float
    float_per_second: float
    loop_seconds: float
    meeting_seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def seconds(self, num_bytes: float, int8: float, floats: float) -> float:
        """The least time for so many bytes and operations, side by side."""
        compute = int8 / self.int8_per_second + floats / self.float_per_second
        return max(num_bytes / self.read_bytes_per_second, compute)


class PeakMeter:
    """Takes samples, as often as asked, and keeps the best: other programs only ever slow it down.

    Samples are best taken between the runs that are compared with them, and forgotten after: the
    speed of a machine changes with its neighbours, that of a virtual one's memory by half.
    ``buffer_bytes`` are read from memory; several times the largest cache where not given.

    Raises:
        DeviceUnavailableError: there is no native core.
        MemoryLimitError: no memory for the buffer.
    """

    def __init__(self, isa: str, threads: int, *, buffer_bytes: int | None = None) -> None:
        core = native_core()
        if core is None:
            raise DeviceUnavailableError(
                "the native core of Tektra is not installed",
                remedy="install Tektra again on a machine with a C++20 compiler",
            )
        if buffer_bytes is None:
            buffer_bytes = max(_LEAST_BUFFER, _CACHE_MULTIPLE * _last_cache_bytes())
        try:
            self._meter = core.MachinePeaks(isa, threads, buffer_bytes)
        except MemoryError as error:
            raise MemoryLimitError(
                f"no {buffer_bytes >> 20} MiB for measuring the memory's speed",
                remedy="end other programs",
            ) from error
        self._best = self._ever = Peaks(
            self._meter.isa, self._meter.num_threads, 0.0, 0.0, 0.0, math.inf, math.inf
        )

    def sample(self, times: int = 1) -> None:
        """Measures everything once more, which takes some 50 ms, or ``times`` as often."""
        for _ in range(times):
            self.sample_rates()
            self._note(
                loop_seconds=self._meter.loop_seconds(),
                meeting_seconds=self._meter.meeting_seconds(),
            )

    def sample_rates(self, times: int = 1) -> None:
        """As `sample`, without the costs of loops, which take longest on a busy machine."""
        meter = self._meter
        for _ in range(times):
            _settle()
            self._note(
                read_bytes_per_second=meter.read_bytes_per_second(),
                int8_per_second=meter.int8_per_second(),
                float_per_second=meter.float_per_second(),
            )
            _settle()

    def forget(self) -> None:
        """`best` begins anew, for what is measured from now on."""
        self._best = Peaks(self._best.isa, self._best.threads, 0.0, 0.0, 0.0, math.inf, math.inf)

    @property
    def best(self) -> Peaks:
        """The best of all samples since `forget`; one is taken where there is none."""
        if math.inf in (self._best.loop_seconds, self._best.meeting_seconds):
            self.sample()
        return self._best

    @property
    def ever(self) -> Peaks:
        """The best of all samples."""
        return self._ever

    def _note(self, **sample: float) -> None:
        self._best, self._ever = _better(self._best, sample), _better(self._ever, sample)


def _settle() -> None:
    """Lets the threads of a program, or of the meter, go to sleep before the other's are woken.

    Threads that still wait busily occupy the cores that those want, and the scheduler then puts two
    of them on one core for as long as a sample takes.
    """
    time.sleep(0.001)


def _better(peaks: Peaks, sample: Mapping[str, float]) -> Peaks:
    """Rates are better when they are larger, seconds when they are smaller."""
    kept = {
        name: (max if name.endswith("_per_second") else min)(value, getattr(peaks, name))
        for name, value in sample.items()
    }
    return replace(peaks, **kept)


def measure_peaks(isa: str, threads: int, *, samples: int = 8) -> Peaks:
    """The best of so many samples."""
    meter = PeakMeter(isa, threads)
    meter.sample(samples)
    return meter.best


def _last_cache_bytes() -> int:
    """Bytes of the largest cache that Linux tells of; 0 elsewhere."""
    largest = 0
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            text = file.read_text().strip()
            scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
            largest = max(largest, int(text.rstrip("KMG")) * scale)
        except (OSError, ValueError):
            continue
    return largest

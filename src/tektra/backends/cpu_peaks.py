"""What this machine can do at most with the native core: the yardstick of every kernel.

Reading memory, multiply-adds of the instruction set, and the cost of a parallel loop, measured by
the core itself (native/core/machine_peaks.cpp) on the threads that a model would get.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
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

    ``buffer_bytes`` are read from memory; several times the largest cache where not given. Samples
    are best taken between the runs that are compared with them, since the speed of a
    machine changes with its temperature and its neighbours.

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
        self._rates = [0.0, 0.0, 0.0]
        self._seconds = [float("inf"), float("inf")]

    def sample(self, times: int = 1) -> None:
        """Measures everything once more, which takes some 50 ms, or ``times`` as often."""
        meter = self._meter
        for _ in range(times):
            self.sample_rates()
            costs = (meter.loop_seconds, meter.meeting_seconds)
            self._seconds = [min(old, f()) for old, f in zip(self._seconds, costs, strict=True)]

    def forget(self) -> None:
        """Begins anew, for what is measured from now on."""
        self._rates = [0.0, 0.0, 0.0]
        self._seconds = [float("inf"), float("inf")]

    def sample_rates(self, times: int = 1) -> None:
        """As `sample`, without the costs of loops, which take longest on a busy machine."""
        meter = self._meter
        for _ in range(times):
            rates = (meter.read_bytes_per_second, meter.int8_per_second, meter.float_per_second)
            self._rates = [max(old, f()) for old, f in zip(self._rates, rates, strict=True)]

    @property
    def best(self) -> Peaks:
        """The best of all samples so far; the first is taken where there is none."""
        if self._seconds[0] == float("inf"):
            self.sample()
        return Peaks(self._meter.isa, self._meter.num_threads, *self._rates, *self._seconds)


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

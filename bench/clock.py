"""The time and the memory of this process, for the benchmarks of training."""

import resource
import sys
import time


class Clock:
    """Starts at once; returns the seconds since then, of the wall and of CPU of this process.

    On a machine with other work the CPU seconds are the better figure. They include those of child
    processes that have ended.
    """

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), self._cpu_time()

    @staticmethod
    def _cpu_time() -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + ended.ru_utime + ended.ru_stime

    def seconds(self) -> dict[str, float]:
        """Return {"seconds": of the wall, "cpu": of CPU}."""
        return {"seconds": time.perf_counter() - self._wall, "cpu": self._cpu_time() - self._cpu}


def peak_megabytes() -> float:
    """Return the largest resident memory of this process so far; macOS counts in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)

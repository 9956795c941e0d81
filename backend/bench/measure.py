"""How long a function takes and how much memory, and how long a matrix product takes on the same machine just then."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

REFERENCE_MATMUL = 0.125  # CPU seconds of `matmul_seconds` on the machine that the project's targets were set on


def matmul_seconds(repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """The median time of one float32 product of two 2048 x 2048 matrices with torch's present number of threads."""
    a = torch.rand(2048, 2048)
    return median_seconds(lambda: torch.mm(a, a), repeats, clock)


def median_seconds(function: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """The median time of `repeats` calls after one that is not counted, by the wall or by another clock.

    `time.process_time` counts the processor's time: on a busy machine that is what one thread costs.
    """
    function()  # not counted: allocations, caches
    times = []
    for _ in range(repeats):
        started = clock()
        function()
        times.append(clock() - started)
    return statistics.median(times)


def peak_megabytes(function: Callable[[], Any]) -> float | None:
    """How far the process's memory rises above its present size while `function` runs; None anywhere but on Linux."""
    try:
        ctypes.CDLL(None).malloc_trim(
            0
        )  # what earlier calls have freed is given back, or this one would seem to need less
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        function()
        return max(0.0, _status("VmHWM") - before) / 1024
    except (OSError, AttributeError, TypeError):
        return None


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return float(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}.")

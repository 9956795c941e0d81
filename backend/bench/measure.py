"""How long a function takes, and how long a matrix product takes on the same machine at the same moment."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def matmul_seconds(repeats: int) -> float:
    """The median time of one float32 product of two 2048 x 2048 matrices with torch's present number of threads."""
    a = torch.rand(2048, 2048)
    return median_seconds(lambda: torch.mm(a, a), repeats)


def median_seconds(function: Callable[[], Any], repeats: int) -> float:
    """The median wall time of `repeats` calls after one that is not counted."""
    function()  # not counted: allocations, caches
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times)

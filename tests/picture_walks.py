"""Walking a view generator to its end, and the picture that the tests give it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backend.datatypes import Step, Views


def disc(size: int = 64) -> Tensor:
    """[4, S, S]: a blue disc on nothing."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    inside = ((x**2 + y**2) < 0.6).float()
    return torch.stack([0.2 * inside, 0.3 * inside, 0.9 * inside, inside])


def walked(generator: Any, **options: Any) -> tuple[Views, list[Step]]:
    """The views of `disc()` (or of what the options say) in two steps, and what was told on the way."""
    run = generator.generate(**({"steps": 2} | ({} if "prompt" in options else {"image": disc()}) | options))
    steps: list[Step] = []
    while True:
        try:
            steps.append(next(run))
        except StopIteration as end:
            return end.value, steps

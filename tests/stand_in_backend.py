"""`python tests/stand_in_backend.py serve`: the real backend with the tests' tiny models in place of the starter's.

Environment: STAND_IN=slow (steps of 0.2 s), noisy (prints on stdout), failing (a bug), hungry (no memory), stuck (one
native call of 30 s). Words can be combined with commas.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from backend import recipes  # noqa: E402


def _generator(device: str) -> object:
    import stand_ins
    import torch

    import backend.pipeline

    # Where the test is not about the mesh, a quick one will do.
    backend.pipeline._surface = stand_ins.quick_surface
    backend.pipeline._texture = stand_ins.quick_texture
    generator = stand_ins.TinyGenerator()
    habits = os.environ.get("STAND_IN", "").split(",")
    if "slow" in habits:
        generator.slow = 0.2
    if "stuck" in habits:
        generator.slow = 30.0
    if "noisy" in habits:
        generator.noisy = True
        os.write(1, b"a native library writes this\n")
    if "failing" in habits:
        generator.fail = ZeroDivisionError("a bug")
    if "hungry" in habits:
        generator.fail = torch.OutOfMemoryError("CUDA out of memory")
    return generator


def _reconstructor(device: str) -> object:
    import stand_ins

    return stand_ins.TinyReconstructor()


if __name__ == "__main__":
    recipes.RECIPES["starter"] = replace(
        recipes.RECIPES["starter"], load_generator=_generator, load_reconstructor=_reconstructor, steps=5, view_size=32
    )
    from backend.__main__ import main

    sys.exit(main())

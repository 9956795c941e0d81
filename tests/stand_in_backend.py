"""`python tests/stand_in_backend.py serve`: the real backend with the tests' tiny models in place of the starter's.

Words in the prompt change how the generator behaves: slow (steps of 0.2 s), noisy (prints on stdout), failing (a bug),
hungry (no memory), stuck (one native call of 30 s).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from backend import recipes  # noqa: E402


def _quick_mesh() -> None:
    """Where the test is not about the mesh, a quick one will do."""
    import stand_ins

    import backend.job.pipeline

    backend.job.pipeline._surface = stand_ins.quick_surface
    backend.job.pipeline._texture = stand_ins.quick_texture


def _generator(device: str) -> object:
    _quick_mesh()
    import stand_ins

    return stand_ins.TinyGenerator()


def _painter(device: str) -> object:
    import stand_ins

    return stand_ins.TinyPainter()


def _reconstructor(device: str) -> object:
    import stand_ins

    return stand_ins.TinyReconstructor()


if __name__ == "__main__":
    starter = recipes.RECIPES["starter"]
    generation = recipes.Generation(_generator, "dmv3d", steps=5, guidance=3.0, seconds=1.0, rerolls=True)
    recipes.RECIPES["starter"] = replace(
        starter, from_text=generation, from_picture=generation, load_reconstructor=_reconstructor, view_size=32
    )
    making = recipes.PictureMaking(_painter, "dmv3d", steps=2, guidance=5.0, seconds=1.0)
    recipes.RECIPES["seeing"] = replace(
        recipes.RECIPES["starter"], name="seeing", from_text=replace(generation, picture=making)
    )
    from backend.__main__ import main

    if "serve" not in sys.argv:  # the server has to take its standard streams over before anything heavy is imported
        _quick_mesh()
    sys.exit(main())

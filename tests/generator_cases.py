"""The four published view generators, tiny and with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from multiview_cases import SMALL
from picture_walks import disc
from sv3d_cases import tiny_config
from zero123plus_folder import TILE

from backend.nets.sv3d import Sv3d, build
from backend.views.mvdream import MultiViewGenerator
from backend.views.mvdream_untrained import untrained_pipeline
from backend.views.sv3d import FOUR, Sv3dGenerator
from backend.views.zero123plus import Zero123PlusGenerator


def sv3d() -> Sv3dGenerator:
    """Of whose frames four are asked for."""
    torch.manual_seed(0)
    return Sv3dGenerator(Sv3d(**build(tiny_config("p"))), FOUR, size=64)


# Each takes a folder with a tiny Zero123++ in it (zero123plus_folder.write_folder); the others need none.
MAKERS: dict[str, Callable[[Path], Any]] = {
    "mvdream": lambda _: MultiViewGenerator(untrained_pipeline(False, SMALL)),
    "imagedream": lambda _: MultiViewGenerator(untrained_pipeline(True, SMALL)),
    "zero123plus": lambda folder: Zero123PlusGenerator.load(folder, tile=TILE),
    "sv3d": lambda _: sv3d(),
}
SOURCES: dict[str, dict[str, Any]] = {name: {"image": disc()} for name in MAKERS} | {"mvdream": {"prompt": "a red mug"}}

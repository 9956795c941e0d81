"""DMV3D as a reconstructor: what denoises views through a triplane NeRF builds that NeRF from clean ones too.

At noise level zero its denoiser is the reconstructor that it grew out of (arXiv 2311.09217, section 3.1). It knows the
words that the views were made of, and so what no view shows: a mug's hollow, the hole of a donut.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from backend.datatypes import Gaussians, Step, Views
from backend.reconstruct.field import field_gaussians
from backend.reconstruct.lgm import LgmReconstructor
from backend.reconstruct.view_colors import painted_by
from backend.views.dmv3d import AZIMUTHS, Dmv3dGenerator

if TYPE_CHECKING:
    from backend.recipe import Reconstructor


class Dmv3dReconstructor:
    """For views that the generator itself made; all others, which may show anything, go to a reconstructor that goes by
    the pictures alone."""

    def __init__(
        self,
        generator: Dmv3dGenerator,
        pack: str | None = "dmv3d",
        load_other: Callable[[], Reconstructor] | None = None,
    ) -> None:
        """pack: the generator's weights, None for random ones; load_other: the other reconstructor, the starter pack's
        LGM by default, asked only where it is needed. used_packs: whose weights the last reconstruction took."""
        self.generator = generator
        self.pack = pack
        self._load_other = load_other or (lambda: LgmReconstructor.load(device=generator.device))
        self.used_packs: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path | None = None, device: str = "cpu") -> Dmv3dReconstructor:
        """With the starter pack's weights, unless another DMV3D is named, and its LGM. Raises MissingWeights."""
        return cls(Dmv3dGenerator.load(path, device))

    def reconstruct(self, views: Views, warnings: list[str]) -> Generator[Step, None, Gaussians]:
        """Gaussians in the cameras' own frame. Raises BadInput where the views show nothing, or are too few."""
        if views.caption is None or len(views) != len(AZIMUTHS):
            self.used_packs = ("lgm",)
            return (yield from self._load_other().reconstruct(views, warnings))
        self.used_packs = () if self.pack is None else (self.pack, "reader")
        with torch.inference_mode():
            words = self.generator.words(views.caption, views.rgba[0])
            planes = self.generator.planes_of(views, words)
        yield Step(1, 2, "Building the object from its views")
        with torch.inference_mode():
            gaussians, normals = field_gaussians(planes, self.generator.network.decode)
            gaussians = painted_by(views, gaussians, normals)
        yield Step(2, 2, "Building the object from its views")
        return gaussians

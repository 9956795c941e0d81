"""`refine`: Gaussians fitted to all of a user's posed pictures, from a network's, from a file's, or from scratch."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backend.datatypes import Cameras, Gaussians, Step, Views
from backend.errors import BadInput
from backend.formats.gaussian_ply import read_gaussian_ply
from backend.formats.images import resize
from backend.formats.transforms_json import read_frames
from backend.job.outside import PosedPictures, take
from backend.recipes import Recipe, Reconstructor
from backend.reconstruct.normalize import Similarity, best_spread
from backend.reconstruct.optimise import compare, optimise, starting_point
from backend.reconstruct.optimise_start import find_region
from backend.render.rasterize import compiled_gsplat
from backend.views.reaim import aimed_at_origin, reaim

PICTURE_SIDE = 512  # the longer side that pictures are reduced to
MOST_PICTURES = 400
NETWORK, SCRATCH = "network", "scratch"  # what `start` may be beside the path of a .ply
_HOLD_OUT_ONE_IN = 8
_FEWEST_FOR_SCRATCH = 8
_MOST_NOTES = 4


def load_all_pictures(path: Path | str, warnings: list[str]) -> PosedPictures:
    """Every posed picture of a transforms.json, cut out, in the canonical frame, seen as it was taken.

    Raises BadInput for whatever `read_frames` and `read_image` refuse, for more than MOST_PICTURES, and for pictures
    that are transparent everywhere.
    """
    frames = read_frames(path, warnings)
    if len(frames) > MOST_PICTURES:
        raise BadInput(f"{len(frames)} posed pictures are too many; {MOST_PICTURES} is the most.", "Leave some out.")
    notes: list[str] = []
    shots = [take(frame, notes, PICTURE_SIDE) for frame in frames]
    warnings.extend(notes[:_MOST_NOTES])
    if len(notes) > _MOST_NOTES:
        warnings.append(f"{len(notes) - _MOST_NOTES} more pictures gave cause for such notes.")
    rgba = _one_size([shot.rgba for shot in shots])
    if float(rgba[:, 3].max()) < 0.02:
        raise BadInput("The posed pictures are transparent everywhere.", "Use pictures in which an object can be seen.")
    poses, lenses = (torch.stack([getattr(s, n) for s in shots]) for n in ("camera_to_world", "intrinsics"))
    views = Views(rgba, Cameras(poses, lenses, rgba.shape[-1], rgba.shape[-2]))
    similarity = find_region(views).similarity
    views = Views(rgba, similarity.cameras(views.cameras))
    return PosedPictures(views, similarity, [frame.picture.name for frame in frames])


def _one_size(pictures: list[Tensor]) -> Tensor:
    """[V, 4, H, W]: cut off or filled up at the right and at the bottom, where it does not move what cameras see."""
    opaque = any(bool((rgba[3] > 0.99).all()) for rgba in pictures)
    # Nothing is filled up beside an opaque picture: emptiness would be taken for what it shows.
    pick = min if opaque else max
    height, width = (pick(rgba.shape[axis] for rgba in pictures) for axis in (1, 2))
    fitted = [rgba[:, :height, :width] for rgba in pictures]
    pads = [(0, width - rgba.shape[2], 0, height - rgba.shape[1]) for rgba in fitted]
    return torch.stack([torch.nn.functional.pad(rgba, pad) for rgba, pad in zip(fitted, pads, strict=True)])


class Refiner:
    """A reconstructor that fits Gaussians to all the views it is given; `facts` then says how well, for the report.

    load_network: the recipe's own reconstructor, asked for only where it is the start. start: "network", "scratch" or
    the path of a .ply in the frame of the user's transforms.json, whose `similarity` led to the views' frame. None
    takes the network for few pictures and begins from scratch with many.
    """

    def __init__(
        self,
        load_network: Callable[[], Reconstructor],
        recipe: Recipe,
        start: str | None,
        steps: int,
        seed: int,
        similarity: Similarity | None,
        device: str = "cpu",
    ) -> None:
        self._load_network, self._recipe, self._start = load_network, recipe, start
        self._steps, self._seed, self._similarity = steps, seed, similarity
        # Without gsplat every step would carry the Gaussians to the CPU and back.
        self._device = device if device == "cuda" and compiled_gsplat() is not None else "cpu"
        self.facts: dict[str, Any] = {}

    def reconstruct(self, views: Views, warnings: list[str]) -> Generator[Step, None, Gaussians]:
        """Where there are eight views or more, one in eight is held out, to measure with. Raises BadInput."""
        held = list(range(_HOLD_OUT_ONE_IN // 2, len(views), _HOLD_OUT_ONE_IN)) if len(views) >= 8 else []
        given = [at for at in range(len(views)) if at not in held]
        shown, hidden = _some(views, given), _some(views, held)
        kind = self._start or (NETWORK if len(views) < _FEWEST_FOR_SCRATCH else SCRATCH)
        kind, start = yield from self._begin(kind, shown, warnings)
        shown, hidden = shown.to(self._device), hidden.to(self._device)
        before = start.to(self._device) if start is not None else starting_point(shown, self._seed)
        after = yield from optimise(shown, start, self._steps, self._seed)
        self.facts = {
            "steps": self._steps,
            "start": kind,
            "views": len(given),
            "held_out_views": held,
            "psnr_given": [round(compare(g, shown), 2) for g in (before, after)],
            **({"psnr_held_out": [round(compare(g, hidden), 2) for g in (before, after)]} if held else {}),
        }
        return after.to("cpu")

    def _begin(
        self, kind: str, views: Views, warnings: list[str]
    ) -> Generator[Step, None, tuple[str, Gaussians | None]]:
        """Of which kind the start turned out to be, and the start, None for one from scratch."""
        if kind == NETWORK:
            start = yield from self._network(views, warnings, needed=self._start is not None)
            return (NETWORK, start) if start is not None else (SCRATCH, None)
        if kind == SCRATCH:
            return SCRATCH, None
        start = self._placed(read_gaussian_ply(Path(kind), warnings), views)
        if start is None:
            warnings.append(
                f"The Gaussians of {Path(kind).name} do not lie where the pictures show the object, "
                "so the refinement began from scratch."
            )
        return (kind, start) if start is not None else (SCRATCH, None)

    def _network(self, views: Views, warnings: list[str], needed: bool) -> Generator[Step, None, Gaussians | None]:
        """What the recipe's reconstructor makes of the best spread of the views, turned and zoomed as it wants them."""
        try:
            count = self._recipe.used_views(len(views))
            chosen = best_spread(views.cameras, count)
        except BadInput:
            if needed:
                raise
            return None
        half_width = self._recipe.radius * math.tan(math.radians(self._recipe.fov_degrees) / 2)
        pose, lens = views.cameras.camera_to_world[chosen], views.cameras.intrinsics[chosen]
        target = aimed_at_origin(pose, half_width, self._recipe.view_size)
        pictures = [reaim(views.rgba[at], pose[i], lens[i], target[[i]]) for i, at in enumerate(chosen)]
        return (yield from self._load_network().reconstruct(Views(torch.stack(pictures), target), warnings))

    def _placed(self, gaussians: Gaussians, views: Views) -> Gaussians | None:
        """A file's Gaussians in the views' frame, or None where none of the frames that it may have shows the object.

        Files of other programs have the transforms.json's own frame, Z up; a job's gaussians.ply has +Y up, or lies
        where the job's views are. The pictures tell which it is.
        """
        moved = self._similarity.gaussians if self._similarity is not None else (lambda same: same)
        turned = turned_y_up(gaussians)
        candidates = [moved(turned), moved(gaussians), gaussians, turned]
        some = _some(views, sorted(set(torch.linspace(0, len(views) - 1, min(len(views), 6)).long().tolist())))
        height, width = _reduced(some.rgba[0])
        small = Views(torch.stack([resize(r, height, width) for r in some.rgba]), some.cameras.resized(width, height))
        fits = [compare(candidate, small) for candidate in candidates]
        nothing = compare(gaussians[:0], small)
        best = max(range(len(fits)), key=fits.__getitem__)
        return candidates[best] if fits[best] > nothing + 0.5 else None


def _some(views: Views, which: list[int]) -> Views:
    return Views(views.rgba[which], views.cameras[which])


def _reduced(rgba: Tensor) -> tuple[int, int]:
    scale = min(1.0, 128 / max(rgba.shape[1:]))
    return max(1, round(rgba.shape[1] * scale)), max(1, round(rgba.shape[2] * scale))


def turned_y_up(gaussians: Gaussians) -> Gaussians:
    """Gaussians of a world with Z up in one with +Y up: (x, y, z) becomes (x, z, -y)."""
    means = torch.stack([gaussians.means[:, 0], gaussians.means[:, 2], -gaussians.means[:, 1]], dim=-1)
    # A quarter turn about x, multiplied from the left; wxyz.
    w, x, y, z = gaussians.quats.unbind(-1)
    quats = torch.stack([w + x, x - w, y + z, z - y], dim=-1) * math.sqrt(0.5)
    return Gaussians(means, gaussians.scales, quats, gaussians.opacities, gaussians.colors)

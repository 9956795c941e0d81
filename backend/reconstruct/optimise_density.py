"""Adaptive control of the density (arXiv 2308.04079, section 5.2): clone, split and prune.

The published schedule spends thousands of steps on it. For a few hundred, the number of Gaussians grows evenly to a
limit instead of by a threshold alone, and those go first whose place in the picture has the largest gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backend.cameras import world_to_camera_opencv
from backend.datatypes import Cameras
from backend.reconstruct.optimise_splats import Splats

FAINTEST = 0.02  # opacity below which a Gaussian is dropped
_DENSE = 0.012  # standard deviation, for an object 1.8 wide, above which a Gaussian is split rather than cloned
_SHRINK = 1.6
_LEAST_GRADIENT = 5e-5  # in units of half a picture; the published threshold is 2e-4


class Density:
    """Gathers how strongly each Gaussian's place in the pictures is pulled at, and acts on it."""

    def __init__(self, splats: Splats, generator: torch.Generator) -> None:
        self._generator = generator
        self._reset(splats)

    def _reset(self, splats: Splats) -> None:
        self._pull = torch.zeros_like(splats.values["logits"])
        self._seen = torch.zeros_like(self._pull)

    def gather(self, means: Tensor, gradient: Tensor, cameras: Cameras) -> None:
        """After a step's backward pass: gradient [N, 3] of the means, from the views of `cameras`."""
        viewmats = world_to_camera_opencv(cameras)
        nearest = torch.stack([means @ pose[2, :3] + pose[2, 3] for pose in viewmats]).mean(0).clamp_min(0)
        size = gradient.norm(dim=-1)
        # Moving a mean across the line of sight by z / focal moves it by one pixel.
        focal = float(cameras.intrinsics[:, 0, 0].mean())
        self._pull += size * nearest / focal * (0.5 * max(cameras.width, cameras.height))
        self._seen += size > 0

    def control(self, splats: Splats, most: int, widest: float) -> None:
        """Drop faint Gaussians and those wider than `widest`, then clone and split up to `most` in all."""
        v = splats.values
        kept = (torch.sigmoid(v["logits"]) > FAINTEST) & (v["log_scales"].amax(-1) < math.log(widest))
        kept &= torch.stack([value.reshape(len(splats), -1).isfinite().all(-1) for value in v.values()]).all(0)
        if not bool(kept.any()):
            kept[:] = True
        pull = torch.where(kept, self._pull / self._seen.clamp_min(1), 0.0)
        room = min(most - int(kept.sum()), len(splats))
        chosen = torch.zeros(0, dtype=torch.int64, device=pull.device)
        if room > 0:
            chosen = pull.topk(room).indices
            chosen = chosen[pull[chosen] > _LEAST_GRADIENT]
        kept = kept.clone()
        kept[chosen] = False  # each of them comes back as two
        splats.replace(kept, self._doubled({name: value[chosen] for name, value in v.items()}))
        self._reset(splats)

    def _doubled(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Two for each: large ones split into smaller ones within, small ones cloned; together as opaque as before."""
        count = len(values["means"])
        twice = {name: torch.cat([value, value]) for name, value in values.items()}
        large = values["log_scales"].amax(-1).exp() > _DENSE
        # Clones stand a little apart as well: at one place they would share every gradient, and stay one.
        spread = torch.where(large, 1.0, 0.5)[:, None] * values["log_scales"].exp()
        offset = _rotate(values["quats"], spread * torch.randn(count, 3, generator=self._generator).to(spread))
        twice["means"] = torch.cat([values["means"] + offset, values["means"] - offset])
        twice["log_scales"] = twice["log_scales"] - torch.where(large, math.log(_SHRINK), 0.0).repeat(2)[:, None]
        alpha = torch.sigmoid(twice["logits"]).clamp(1e-4, 1 - 1e-4)
        half = 1 - (1 - alpha).sqrt()  # two of these cover what one of `alpha` did
        return {**twice, "logits": torch.where(large.repeat(2), twice["logits"], torch.log(half / (1 - half)))}


def _rotate(quats: Tensor, vectors: Tensor) -> Tensor:
    """Vectors [N, 3] turned by wxyz quaternions [N, 4] of any length."""
    quats = torch.nn.functional.normalize(quats, dim=-1)
    w, axis = quats[:, :1], quats[:, 1:]
    turned = 2 * torch.linalg.cross(axis, vectors, dim=-1)
    return vectors + w * turned + torch.linalg.cross(axis, turned, dim=-1)

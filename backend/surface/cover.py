"""Gaussians made to cover their surface: what a few faint or small ones leave open is not a hole in the object."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from backend.datatypes import Gaussians
from backend.render.gaussian_reference import rotation_matrices

FloatArray = NDArray[np.float32]

NEIGHBOURS = 5
OVERLAP = 0.7  # standard deviation in spacings at which neighbours leave no gap
LARGEST_GAP = 0.08  # in the frame where the object is 1.8 wide: what is further apart is not made to meet
FAINT, FULL = 0.12, 0.5  # shares of the usual opacity: below the first nothing, from the second on solid
ROUND, FLAT = 0.8, 0.4  # least over middle standard deviation: from the first on a ball, up to the second a disc


@dataclass(frozen=True)
class Cover:
    """gaussians: the solid ones of those given, grown to meet, and opaque; spacing: how far apart they usually are.

    axes [N, 3]: the unit normal of each one's own disc, of either sign; flatness [N]: 1 for a disc, 0 for a ball,
    which has no normal; thickness [N]: the least standard deviation, of a disc as it came, of a ball as it grew.
    """

    gaussians: Gaussians
    spacing: float
    axes: FloatArray
    flatness: FloatArray
    thickness: FloatArray

    def of(self, keep: NDArray[np.bool_]) -> Cover:
        """Some of them."""
        chosen = self.gaussians[torch.from_numpy(keep)]
        return Cover(chosen, self.spacing, self.axes[keep], self.flatness[keep], self.thickness[keep])


def cover(gaussians: Gaussians) -> Cover:
    """The object as its solid Gaussians mean it, for looking at from all sides; places and colours are as they were."""
    usual = float(np.quantile(gaussians.opacities.numpy(), 0.9))
    share = gaussians.opacities / usual
    gaussians, share = gaussians[share > FAINT], share[share > FAINT]
    opacities = (share - FAINT).div(FULL - FAINT).clamp(0.0, 1.0).mul(0.95).clamp(min=0.02)
    axes, flatness = _discs(gaussians)
    own = gaussians.scales.amin(dim=1).numpy()
    means = gaussians.means.numpy()
    count = min(NEIGHBOURS, len(means))
    if count < 3:
        return Cover(replace(gaussians, opacities=opacities), float(gaussians.scales.mean()), axes, flatness, own)
    distances = cKDTree(means).query(means, k=count)[0][:, -1]
    spacing = torch.from_numpy(distances.astype(np.float32)) * math.sqrt(math.pi / count)
    least = (OVERLAP * spacing).clamp(max=LARGEST_GAP)[:, None]
    # Flat ones stay flat, or a fine surface would get a thick coat.
    smallest = gaussians.scales.amin(dim=1, keepdim=True)
    stays = (gaussians.scales <= smallest) & torch.from_numpy(flatness > 0)[:, None]
    scales = torch.where(stays, gaussians.scales.maximum(0.3 * least), gaussians.scales.maximum(least))
    thickness = flatness * own + (1 - flatness) * scales.amin(dim=1).numpy()
    gaussians = replace(gaussians, scales=scales, opacities=opacities)
    return Cover(gaussians, float(spacing.median()), axes, flatness, thickness)


def _discs(gaussians: Gaussians) -> tuple[FloatArray, FloatArray]:
    """axes [N, 3] and flatness [N], see `Cover`."""
    lengths, order = gaussians.scales.sort(dim=1)
    axes = rotation_matrices(gaussians.quats).gather(2, order[:, None, :1].expand(-1, 3, 1))[..., 0]
    ratio = lengths[:, 0] / lengths[:, 1].clamp(min=1e-12)
    return axes.contiguous().numpy(), ((ROUND - ratio) / (ROUND - FLAT)).clamp(0.0, 1.0).numpy()

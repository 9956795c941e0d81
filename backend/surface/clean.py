"""What of a cloud of Gaussians is the object: without broken, transparent and stray ones, in the canonical frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from backend.datatypes import CANONICAL_SIZE, Gaussians
from backend.errors import BadInput

MOST = 150_000  # more Gaussians than this are thinned out: a grid of 128 cells cannot show what they add
FAINTEST = 0.02  # opacity below which a Gaussian neither shows nor hides anything
FEW = 64  # fewer Gaussians than this have no neighbourhoods by which to tell a floater
JITTER = 4e-6  # in the frame where the object is 1.8 wide
CELLS = 48  # cells along the longest side in the search for floaters
STRAY = 0.01  # a piece with less of the whole area than this is a floater


@dataclass(frozen=True)
class Frame:
    """Where the working frame (object centred, longest side 1.8) lies: input = working / scale + center."""

    center: torch.Tensor
    scale: float

    def to_input(self, points: torch.Tensor) -> torch.Tensor:
        return points / self.scale + self.center


def _finite(gaussians: Gaussians) -> torch.Tensor:
    """[N] bool: every number is finite and within reason, and the Gaussian has an orientation."""
    keep = torch.ones(len(gaussians), dtype=torch.bool)
    for values in (gaussians.means, gaussians.scales, gaussians.quats, gaussians.colors):
        keep &= torch.isfinite(values).all(dim=1) & (values.abs() < 1e15).all(dim=1)
    keep &= torch.isfinite(gaussians.opacities)
    return keep & (gaussians.scales >= 0).all(dim=1) & (gaussians.quats.norm(dim=1) > 1e-8)


def _area(scales: torch.Tensor) -> torch.Tensor:
    """[N]: how much a Gaussian covers, up to a factor: the product of its two longest axes."""
    longest = scales.sort(dim=1, descending=True).values
    return longest[:, 0] * longest[:, 1]


def _main_pieces(means: NDArray, mass: NDArray, solid: NDArray) -> NDArray:
    """[N] bool: in a piece of the cloud that is large enough to be meant. Only `solid` ones hold a piece together."""
    low, high = np.quantile(means[solid], [0.01, 0.99], axis=0)
    # The margin leaves thin ends (an antenna, a blade) in, even where they hold less than a percent of the Gaussians.
    margin = 0.5 * max(float((high - low).max()), 1e-12)
    low, high = low - margin, high + margin
    inside = ((means >= low) & (means <= high)).all(axis=1)
    cell = float((high - low).max()) / (2 * CELLS)
    shape = tuple(np.ceil((high - low) / cell).astype(int) + 1)
    index = np.clip(((means - low) / cell).astype(np.int64), 0, np.array(shape) - 1)
    flat = np.ravel_multi_index(tuple(index.T), shape)
    held = np.zeros(shape, bool)
    held.reshape(-1)[flat[inside & solid]] = True
    # Sparse clouds have gaps of a cell or two between neighbours.
    labels, count = ndimage.label(ndimage.binary_dilation(held, np.ones((3, 3, 3))), np.ones((3, 3, 3)))
    label = np.where(inside, labels.reshape(-1)[flat], 0)
    masses = np.bincount(label, weights=mass * solid, minlength=count + 1)
    masses[0] = 0.0
    return (masses >= STRAY * masses.sum())[label] & (label > 0)


def prepare(gaussians: Gaussians) -> tuple[Gaussians, Frame]:
    """The Gaussians that make up the object, on the CPU, moved and scaled into the canonical box.

    Raises BadInput where nothing visible is left.
    """
    if len(gaussians) == 0:
        raise BadInput("There are no Gaussians to make a surface from.", "Give a .ply file with at least one Gaussian.")
    gaussians = _thinned(gaussians, 8 * MOST)  # so many are enough to tell which ones are the object
    gaussians = Gaussians(*(getattr(gaussians, name).detach().float().cpu() for name in Gaussians.__dataclass_fields__))
    gaussians = gaussians[_finite(gaussians)]
    if len(gaussians) == 0:
        raise BadInput("None of the Gaussians has finite numbers.", "Check the file that they came from.")
    gaussians = gaussians[gaussians.opacities > FAINTEST]
    if len(gaussians) == 0 or gaussians.opacities.max() < 0.05:
        raise BadInput("All Gaussians are transparent, so there is no surface.", "Check the opacities in the file.")

    solid = _solid(gaussians)
    if len(gaussians) >= FEW:
        mass = (gaussians.opacities * _area(gaussians.scales)).double()
        # One enormous Gaussian must not make all the others look like floaters.
        mass = mass.clamp(max=float(mass[solid].median()) * 16)
        keep = torch.from_numpy(_main_pieces(gaussians.means.double().numpy(), mass.numpy(), solid.numpy()))
        gaussians, solid = gaussians[keep], solid[keep]
        extent = _extent(gaussians.means[solid])
        fits = gaussians.scales.amax(dim=1) <= max(
            0.5 * extent, 4 * float(gaussians.scales.amax(dim=1)[solid].median())
        )
        gaussians, solid = gaussians[fits], solid[fits]

    # A Gaussian is about two standard deviations wide to the eye; the few very wide ones are not what sets the box.
    reach = gaussians.scales.amax(dim=1)
    reach = 2 * reach.clamp(max=3 * float(reach[solid].median()))
    low = (gaussians.means - reach[:, None])[solid].amin(dim=0)
    high = (gaussians.means + reach[:, None])[solid].amax(dim=0)
    longest = float((high - low).max())
    if longest <= 1e-12:
        raise BadInput("All Gaussians lie in one point and have no size.", "Check the scales in the file.")
    frame = Frame((low + high) / 2, CANONICAL_SIZE / longest)
    # Very many in one place would make every search among neighbours a search among all.
    jitter = torch.rand(gaussians.means.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    gaussians = Gaussians(
        (gaussians.means - frame.center) * frame.scale + JITTER * jitter,
        (gaussians.scales * frame.scale).clamp(min=1e-4),
        gaussians.quats / gaussians.quats.norm(dim=1, keepdim=True),
        gaussians.opacities.clamp(max=1.0),
        gaussians.colors.clamp(0.0, 1.0),
    )
    return _thinned(gaussians, MOST), frame


def _solid(gaussians: Gaussians) -> torch.Tensor:
    """[N] bool: opaque enough to show where the object is."""
    return gaussians.opacities >= min(0.3, 0.5 * float(gaussians.opacities.max()))


def _extent(means: torch.Tensor) -> float:
    return float((means.amax(dim=0) - means.amin(dim=0)).max())


def _thinned(gaussians: Gaussians, most: int) -> Gaussians:
    """At most so many Gaussians: a random choice (always the same), grown so that they still cover the surface."""
    if len(gaussians) <= most:
        return gaussians
    chosen = torch.randperm(len(gaussians), generator=torch.Generator().manual_seed(0))[:most]
    growth = (len(gaussians) / most) ** 0.5
    few = gaussians[chosen.to(gaussians.means.device)]
    return Gaussians(few.means, few.scales * growth, few.quats, few.opacities, few.colors)

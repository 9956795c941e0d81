"""Pieces of one object put together again: bridges where the Gaussians, or their silence, say that something was there.

Few views leave gaps: the top of a lamp's pole hides behind the shade from every camera, and no Gaussian is there. The
surface then falls into pieces that are one object. Between two pieces goes the path along which least speaks against
matter, and it becomes solid where one of two things holds:

- Gaussians themselves join the pieces, only too faint or too few for the field to have closed over them; or
- the path leaves one of the pieces where its surface was made up: closed over a hole that no Gaussian covers, as the
  open end of a tube is. Where Gaussians lie on both faces of a gap, whoever made them has seen both, and they are two.

Where it is known that there is one object, as where a model was asked for one, every piece within reach is joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.graph import MCP_Geometric

from backend.datatypes import Gaussians
from backend.render.gaussian_reference import rotation_matrices
from backend.surface.grid import Grid
from backend.surface.points import Points

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.intp]

SMALLEST, MOST = 0.004, 12  # of the largest piece's volume: what is less is not worth a bridge; so many pieces at most
LONGEST = 0.4  # of a bridge, in the object's longest sides
SEEN, SEEN_USUALLY = 0.42, 0.25  # share of cameras that may see through a bridge: anywhere, in the mean
SEEN_OF_ONE = 0.9  # anywhere, of what is known to be one object
MATTER = 0.15  # of the usual density of Gaussians from which on they join the pieces
MADE_UP = 4.0  # spacings to the nearest Gaussians on a surface that none covers
FACING = 0.4  # cosine to the surface's normal from which on a Gaussian covers it
FINEST = 160  # samples along the longest side in the search for paths
SLACK = 0.5  # cells that a bridge is deeper than it must be
THINNEST, THICKEST = 1.5, 0.08  # a bridge's radius: in cells, in longest sides


@dataclass(frozen=True)
class _Evidence:
    """What speaks for and against matter. votes: see `carve.empty_votes`; clouds: the Gaussians as they came, and as
    they are looked at; usual: the density at their centres; single: it is known that there is one object."""

    grid: Grid
    votes: FloatArray
    points: Points
    clouds: tuple[Gaussians, Gaussians]
    usual: float
    single: bool

    @property
    def size(self) -> int:
        return max(self.votes.shape)


def bridged(
    field: FloatArray,
    votes: FloatArray,
    grid: Grid,
    points: Points,
    clouds: tuple[Gaussians, Gaussians],
    single: bool = False,
) -> FloatArray:
    """The field (negative inside, about the distance in cells) with its pieces joined as far as they belong together.

    votes [grid.shape]: the share of cameras that see a place as empty. clouds: the Gaussians as they came and as they
    are looked at (see `Cloud.pressed`), in the grid's frame. single: it is known that there is one object.
    """
    pieces, volumes = _pieces(field)
    if len(volumes) < 2:
        return field
    own = clouds[0].means[:: max(1, len(clouds[0]) // 64)]
    evidence = _Evidence(grid, votes, points, clouds, float(np.median(_density(clouds[0], own.numpy()))), single)
    for _ in range(len(volumes) - 1):
        for source in range(1, len(volumes)):
            found = _paths(field, pieces, source, evidence)
            path = next((path for path in found if _holds(field, path, evidence)), None)
            if path is not None:
                field = _with_bridge(field, path, pieces, evidence)
                break
        else:
            return field
        pieces, volumes = _pieces(field)
    return field


def _pieces(field: FloatArray) -> tuple[NDArray[np.int32], list[int]]:
    """Which piece a sample is in, the largest being 1, 0 for none and for crumbs; and their volumes."""
    labels, count = ndimage.label(field < 0)
    volumes = np.bincount(labels.reshape(-1), minlength=count + 1)
    volumes[0] = 0
    order = np.argsort(-volumes, kind="stable")[:MOST]
    order = order[volumes[order] > SMALLEST * volumes.max()]
    rank = np.zeros(count + 1, np.int32)
    rank[order] = np.arange(1, len(order) + 1)
    return rank[labels], volumes[order].tolist()


def _paths(field: FloatArray, pieces: NDArray[np.int32], source: int, evidence: _Evidence) -> Iterator[FloatArray]:
    """Paths [n, 3] in cells from a piece to every smaller one in reach, the cheapest first."""
    stride = -(-evidence.size // FINEST)
    thin = (slice(None, None, stride),) * 3
    field, pieces, votes = field[thin], pieces[thin], evidence.votes[thin]
    cost = np.where(field < 0, 1e-3, 0.02 + np.maximum(field, 0) ** 2 + 4 * votes**2).astype(np.float64)
    cost[(field >= 0) & (votes > (SEEN_OF_ONE if evidence.single else SEEN))] = -1
    inside = pieces == source
    edge = inside & ~ndimage.binary_erosion(inside)
    cost[inside & ~edge] = -1
    if not edge.any():
        return
    search = MCP_Geometric(cost)
    costs, _ = search.find_costs(np.argwhere(edge))
    found = []
    for target in range(source + 1, int(pieces.max()) + 1):
        ends = np.argwhere(pieces == target)
        if len(ends) and np.isfinite(reached := costs[tuple(ends.T)]).any():
            found.append((float(reached.min()), tuple(ends[reached.argmin()])))
    for _, end in sorted(found):
        yield (np.array(search.traceback(end)) * stride).astype(np.float32)


def _holds(field: FloatArray, path: FloatArray, evidence: _Evidence) -> bool:
    """Whether a path from piece to piece is matter."""
    at = tuple(path.astype(np.intp).T)
    gap = np.flatnonzero(field[at] >= 0)
    if len(gap) == 0:
        return True
    if np.linalg.norm(path[gap[-1]] - path[gap[0]]) > LONGEST * evidence.size:
        return False
    if evidence.single:
        return True
    within = path[gap[0] : gap[-1] + 1]
    places = within * evidence.grid.cell + evidence.grid.origin
    if min(_density(cloud, places).min() for cloud in evidence.clouds) > MATTER * evidence.usual:
        return True
    if evidence.votes[at][gap].mean() > SEEN_USUALLY:
        return False
    ends = (path[gap[0]], path[gap[-1]])
    return max(_bareness(field, end, evidence.points) for end in ends) > MADE_UP


def _density(gaussians: Gaussians, places: FloatArray) -> FloatArray:
    """[n]: the opacities of Gaussians about places [n, 3], added up."""
    low, high = torch.from_numpy(places.min(axis=0)), torch.from_numpy(places.max(axis=0))
    reach = 3 * gaussians.scales.amax(dim=1, keepdim=True)
    near = ((gaussians.means > low - reach) & (gaussians.means < high + reach)).all(dim=1)
    gaussians = gaussians[near]
    axes = rotation_matrices(gaussians.quats)
    total = np.zeros(len(places), np.float32)
    for i, place in enumerate(torch.from_numpy(np.ascontiguousarray(places, np.float32))):
        steps = torch.einsum("nji,nj->ni", axes, place - gaussians.means) / gaussians.scales
        total[i] = float((gaussians.opacities * torch.exp(-0.5 * (steps**2).sum(dim=1))).sum())
    return total


def _bareness(field: FloatArray, place: FloatArray, points: Points) -> float:
    """How far the third nearest Gaussian is that covers the surface at a place on it, in the usual spacings."""
    speak = points.areas > 0
    if speak.sum() < 3:
        return 0.0
    corner = np.maximum(place.astype(np.intp) - 6, 0)
    box = tuple(slice(low, low + 13) for low in corner)
    slopes = np.gradient(ndimage.gaussian_filter(field[box], 1.5))
    at = tuple(place.astype(np.intp) - corner)
    outward = np.array([slope[at] for slope in slopes])
    outward /= max(float(np.linalg.norm(outward)), 1e-9)
    covers = points.surface[speak][points.normals[speak] @ outward > FACING]
    if len(covers) < 3:
        return np.inf
    return float(cKDTree(covers).query(place, k=3)[0][-1]) / float(np.median(points.spacing[speak]))


def _with_bridge(field: FloatArray, path: FloatArray, pieces: NDArray[np.int32], evidence: _Evidence) -> FloatArray:
    """The field lowered about a path until its ends are one piece, about as wide as they are."""
    gap = np.flatnonzero(field[tuple(path.astype(np.intp).T)] >= 0)
    if len(gap) == 0:
        return field
    widest = THICKEST * evidence.size
    radius = min(widest, *(_thickness(pieces, path[end], widest) for end in (max(gap[0] - 1, 0), -1)))
    radius = max(0.8 * radius, THINNEST)
    path = path[max(gap[0] - 1, 0) :]
    middle = ndimage.gaussian_filter1d(path, 2.0, axis=0, mode="nearest")
    middle[0], middle[-1] = path[0], path[-1]
    margin = int(np.ceil(3.5 * radius))
    low = np.maximum(np.floor(path.min(axis=0)).astype(int) - margin, 0)
    high = np.ceil(path.max(axis=0)).astype(int) + margin + 1
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    local = field[box]
    samples = np.indices(local.shape).reshape(3, -1).T + low
    fine = np.concatenate([middle[:-1] + step * (middle[1:] - middle[:-1]) for step in (0.0, 0.5)] + [middle[-1:]])
    distance = cKDTree(fine).query(samples, distance_upper_bound=margin)[0].reshape(local.shape)
    depth = float(ndimage.map_coordinates(field, middle.T, order=1, mode="nearest").max()) + SLACK
    result = field.copy()
    result[box] = local - depth * np.exp(-0.5 * (distance / radius) ** 2)
    return result


def _thickness(pieces: NDArray[np.int32], end: FloatArray, reach: float) -> float:
    """Half the thickness, in cells, of the piece that a path ends at, near that end."""
    center = end.astype(np.intp)
    low = np.maximum(center - int(1.5 * reach) - 1, 0)
    box = tuple(slice(a, b) for a, b in zip(low, center + int(1.5 * reach) + 2, strict=True))
    inside = pieces[box] == pieces[tuple(center)]
    return float(ndimage.distance_transform_edt(inside).max())

"""The Gaussians as oriented points: where the surface lies, which way it looks, how much of it each one stands for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from backend.datatypes import Gaussians
from backend.surface.cover import Cover
from backend.surface.grid import Grid
from backend.surface.neighbours import Neighbours, scatter
from backend.surface.probe import Probe, seen_from

FloatArray = NDArray[np.float32]

SHELL = 0.7  # how many of a Gaussian's standard deviations outside of its centre it looks solid
THICKEST = 1.2  # cells: more than that is no surface's thickness
TWO_SIDED, ONE_SIDED = 0.08, 0.25  # how unequally the two sides are seen: a sheet below the first, a surface above
FEW = 64  # fewer points than this have no neighbourhoods by which to tell a floater
LAYER = 6.0  # deviations of the noise from the outermost of a layer to the innermost
DEEPEST = 0.06  # how far behind the depth picture a Gaussian may still count as seen: in the thickest of layers


@dataclass(frozen=True)
class Points:
    """centers [N, 3] in cells of the grid; normals [N, 3] unit; sided [N]: 1 where the normal is known, 0 on a thin
    sheet; areas [N] in square cells, times opacity, 0 for what no camera sees; radii [N] in cells, over which a point
    speaks; shells [N], how far the surface lies outside of the centres, in cells.

    sure [N]: how much the Gaussian's own plane is to be believed; spacing, noise [N] in cells: how far the
    neighbours are, and how far they scatter along the normal; near: the neighbours.
    """

    centers: FloatArray
    normals: FloatArray
    sided: FloatArray
    areas: FloatArray
    radii: FloatArray
    shells: FloatArray
    sure: FloatArray
    spacing: FloatArray
    noise: FloatArray
    near: Neighbours

    @property
    def surface(self) -> FloatArray:
        """[N, 3]: where the surface is, in cells: a heap of round Gaussians is seen by its shell, not by its middle."""
        return self.centers + self.normals * (self.shells * self.sided)[:, None]


@dataclass(frozen=True)
class Cloud:
    """The Gaussians before anybody looked at them. near: neighbours, lengths as in the cloud's own frame.

    planes [N, 3]: each one's own plane as a unit normal of either sign; sure [N]: how much it is to be believed;
    noise [N]: how far the neighbours scatter along it.
    """

    covering: Cover
    near: Neighbours
    planes: FloatArray
    sure: FloatArray
    noise: FloatArray

    @staticmethod
    def of(covering: Cover) -> Cloud:
        """The cloud without floaters."""
        near = Neighbours.of(covering.gaussians.means.numpy(), float(covering.gaussians.scales.mean()))
        lonely = _lonely(near)
        if lonely.any():
            covering = covering.of(~lonely)
            near = Neighbours.of(covering.gaussians.means.numpy(), float(covering.gaussians.scales.mean()))
        means = covering.gaussians.means.numpy()
        flat = covering.flatness[:, None]
        planes = _unit(flat * covering.axes + (1 - flat) * _towards(near.planes, covering.axes)).astype(np.float32)
        sure = np.maximum(covering.flatness, near.flatness)
        return Cloud(covering, near, planes, sure, scatter(near.index, means, planes))

    def pressed(self) -> Gaussians:
        """The Gaussians with round ones pressed into discs where their centres form a clean sheet.

        A ball hides what lies within two of its standard deviations: the gap between two parts, or a hollow. But where
        the balls are far larger than the spacing of their centres, the balls are the object.
        """
        gaussians = self.covering.gaussians
        lengths = gaussians.scales.sort(dim=1).values
        spacing, noise, sure = (torch.from_numpy(values) for values in (self.near.spacing, self.noise, self.sure))
        thickness = torch.maximum(0.1 * spacing, 1.5 * noise)
        press = (sure > 0.5) & (thickness < 0.7 * lengths[:, 0]) & (spacing > 0.2 * lengths[:, 1])
        wide = lengths[:, 1].minimum(torch.maximum(spacing, 0.5 * lengths[:, 1]))
        discs = torch.stack([wide, wide, thickness], dim=1)
        return replace(
            gaussians,
            scales=torch.where(press[:, None], discs, gaussians.scales),
            quats=torch.where(press[:, None], turning_z_to(torch.from_numpy(self.planes)), gaussians.quats),
        )


def oriented_points(cloud: Cloud, probe: Probe, grid: Grid) -> Points:
    """The Gaussians as points, those that no camera sees with an area of 0."""
    covering, near = cloud.covering, cloud.near
    means, opacities = covering.gaussians.means.numpy(), covering.gaussians.opacities.numpy()
    # The picture shows the outermost of a noisy layer; were those behind it not counted, the surface would move out.
    deep = np.maximum(np.maximum(0.7 * near.spacing, LAYER * cloud.noise), 0.5 * grid.cell)
    deep = np.minimum(deep, max(DEEPEST, 0.7 * covering.spacing)).astype(np.float32)
    views = seen_from(means, cloud.planes, probe, deep)
    seen = views[:, 3] + views[:, 4] > 0
    weights = opacities * seen
    directions = views[:, :3] / np.maximum(views[:, 3:].sum(axis=1, keepdims=True), 1.0)
    smooth = near.mean(directions, weights)
    length = np.linalg.norm(smooth, axis=1, keepdims=True)
    sure = cloud.sure[:, None]
    # A disc is seen from its own side only: the far wall of a chair's leg must not have a say.
    planes = _towards(cloud.planes, np.where(sure > 0.5, directions, smooth))
    # Where the directions of sight nearly cancel, as they do on a wall seen from outside and through a hole from
    # inside, the plane is the better normal, and the side that more cameras see is the outside.
    share = np.clip((length - TWO_SIDED) / (ONE_SIDED - TWO_SIDED), 0.0, 1.0) * (1 - sure)
    normals = _unit(share * smooth / np.maximum(length, 1e-6) + (1 - share) * planes).astype(np.float32)
    counts = seen_from(means, normals, probe, deep)[:, 3:]
    mean = near.mean(counts, weights, normals)
    balance = (mean[:, 0] - mean[:, 1]) / np.maximum(mean.sum(axis=1), 1e-6)
    normals = normals * np.where(balance < 0, -1.0, 1.0)[:, None].astype(np.float32)

    # What lies unseen between the others takes no share of the surface away from them.
    visible = np.maximum(near.mean(seen[:, None].astype(np.float32))[:, 0], 0.2)
    areas = near.spacing**2 / visible * np.minimum(2 * opacities, 1.0) * seen * _belonging(cloud)
    spacing, noise = near.spacing / grid.cell, cloud.noise / grid.cell
    return Points(
        grid.to_cells(means),
        normals,
        np.clip((np.abs(balance) - TWO_SIDED) / (ONE_SIDED - TWO_SIDED), 0.0, 1.0).astype(np.float32),
        (areas / grid.cell**2).astype(np.float32),
        np.clip(np.maximum(0.7 * spacing, noise), 1.0, 5.0).astype(np.float32),
        np.minimum(SHELL * _thickness(cloud) / grid.cell, THICKEST).astype(np.float32),
        cloud.sure.astype(np.float32),
        spacing.astype(np.float32),
        noise.astype(np.float32),
        near,
    )


def _thickness(cloud: Cloud) -> FloatArray:
    """[N]: of the layer that Gaussians fill together, whose outer skin is the surface, as a standard deviation.

    Centres that form a clean sheet are the surface. Where they scatter about as far as the Gaussians are thick, these
    lie in one another, and what shows is the skin. Discs that scatter farther than they are thick fill nothing: each
    says where the surface is, they disagree, and the best that can be said is their mean, which has no skin. (Balls
    say no such thing: a heap of them is a body, however loose.)
    """
    own, flat = cloud.covering.thickness, cloud.covering.flatness
    filled = np.clip(own / np.maximum(cloud.noise, 1e-9), 0.0, 1.0)
    return np.minimum(own, 1.5 * cloud.noise) * (1 - flat * (1 - filled))


def _lonely(near: Neighbours) -> NDArray[np.bool_]:
    """[N]: much farther from its neighbours than points usually are, and not on a common plane with them."""
    spacing = near.spacing
    if len(spacing) < FEW:
        return np.zeros(len(spacing), bool)
    lonely = spacing > (3 + 5 * near.flatness) * np.median(spacing)
    # Where there are many, the cloud is uneven rather than dirty.
    return lonely & (lonely.mean() < 0.1)


def _belonging(cloud: Cloud) -> FloatArray:
    """[N] in [0, 1]: 0 for a point farther from its neighbours than they are from theirs, or far off their layer: a
    floater near the surface."""
    if len(cloud.noise) < FEW:
        return np.ones(len(cloud.noise), np.float32)
    spacing, noise = cloud.near.usual(cloud.near.spacing), cloud.near.usual(cloud.noise)
    lonely = cloud.near.spacing / np.maximum(spacing, 1e-9)
    off = cloud.noise / np.maximum(noise + 0.1 * spacing, 1e-9)
    return (np.clip((2.4 - lonely) / 0.8, 0.0, 1.0) * np.clip(3.5 - off, 0.0, 1.0)).astype(np.float32)


def turned_to(points: Points, field: FloatArray, blur: float) -> Points:
    """The points with their normals taken from a field (1 inside), as far as their own are not sure; but the field says
    which side is out."""
    smooth = ndimage.gaussian_filter(field, blur)
    slopes = np.stack([_sampled(-slope, points.surface) for slope in np.gradient(smooth)], axis=1)
    length = np.linalg.norm(slopes, axis=1, keepdims=True)
    slopes = np.where(length > 1e-4, slopes / np.maximum(length, 1e-6), points.normals)
    agree = (slopes * points.normals).sum(axis=1, keepdims=True)
    own = points.normals * np.where(agree < -0.3, -1.0, 1.0)
    sure = points.sure[:, None]
    normals = _unit(sure * own + (1 - sure) * slopes)
    return replace(points, normals=normals.astype(np.float32))


def turning_z_to(normals: Tensor) -> Tensor:
    """[n, 4] wxyz: rotations that take the z axis to unit normals [n, 3], or to their opposites."""
    up = torch.where(normals[:, 2:] < 0, -normals, normals)
    return torch.nn.functional.normalize(torch.stack([1 + up[:, 2], -up[:, 1], up[:, 0], 0 * up[:, 0]], dim=1), dim=1)


def _sampled(field: FloatArray, places: FloatArray) -> FloatArray:
    return ndimage.map_coordinates(field, places.T, order=1, mode="nearest")


def _unit(vectors: NDArray) -> NDArray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def _towards(vectors: NDArray, others: NDArray) -> NDArray:
    """[n, 3]: each vector, or its opposite, whichever lies on the other's side."""
    return vectors * np.where((vectors * others).sum(axis=1, keepdims=True) < 0, -1.0, 1.0)

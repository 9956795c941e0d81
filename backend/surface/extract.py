"""Gaussians to a closed mesh: look from all round, carve what is empty, draw the surface to the Gaussians' centres."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch

from backend.datatypes import Gaussians, Mesh, Step
from backend.errors import BadInput
from backend.surface import topology
from backend.surface.bridge import bridged
from backend.surface.carve import empty_votes
from backend.surface.clean import prepare
from backend.surface.cover import cover
from backend.surface.field import surface_field
from backend.surface.grid import Grid, without_cavities, without_crumbs
from backend.surface.points import Cloud, oriented_points
from backend.surface.polygonise import polygonise
from backend.surface.probe import Probe, front_facing, look, solid_alpha, sphere_cameras
from backend.surface.settle import settle

CAMERAS = 56
THINNEST, THICKEST = 0.5, 0.04  # slack of the votes: at least so many cells; at most, in the frame 1.8 wide
PIXELS_PER_CELL = 1.5
VIEWS_PER_STEP = 8
SMOOTHING = 8
CRUMB = 0.01  # of the largest piece's volume
COARSEST, FINEST = 128, 176  # samples along the longest side, where nothing else is asked for
SPACINGS, NOISES = 1.4, 3.0  # a cell holds so many: less shows nothing more than which Gaussian lies where
STEPS = CAMERAS // VIEWS_PER_STEP + 4


def extract_surface(
    gaussians: Gaussians, resolution: int | None = None, *, faces: int = 0, single: bool = False
) -> Generator[Step, None, Mesh]:
    """A closed, outward-facing mesh without inner shells, in the Gaussians' own frame.

    resolution: samples along the longest side; None: as fine as the Gaussians lie, and enough for so many `faces`. The
    mesh has up to about 7 * resolution^2 of them; `simplify` comes next.
    single: it is known that the Gaussians are of one object, so that its pieces belong together.
    Raises BadInput where the Gaussians have no surface (none, broken, transparent) or resolution is out of range.
    """
    if resolution is not None and not 16 <= resolution <= 512:
        raise BadInput(f"The surface's resolution must lie between 16 and 512, not {resolution}.")
    cloud, frame = prepare(gaussians)
    yield Step(1, STEPS, "Looking at the Gaussians")

    described = Cloud.of(cover(cloud))
    covering, pressed = described.covering, described.pressed()
    points = covering.gaussians.means.numpy()
    reach = np.minimum(2 * covering.gaussians.scales.amax(dim=1).numpy(), 0.3)
    low, high = (points - reach[:, None]).min(axis=0), (points + reach[:, None]).max(axis=0)
    low, high = np.maximum(low, -1.0), np.minimum(high, 1.0)
    if resolution is None:
        resolution = max(_resolution(described, float((high - low).max())), min(round((faces / 3) ** 0.5), 512))
    radius = float((np.linalg.norm(points, axis=1) + reach).max())
    cameras = sphere_cameras(CAMERAS, radius, int(PIXELS_PER_CELL * resolution))
    depths, alphas = [], []
    for start in range(0, CAMERAS, VIEWS_PER_STEP):
        depth, alpha = look(pressed, cameras[start : start + VIEWS_PER_STEP])
        depths.append(depth)
        alphas.append(alpha)
        yield Step(2 + start // VIEWS_PER_STEP, STEPS, "Looking at the Gaussians")
    probe = Probe.of(cameras, np.concatenate(depths), solid_alpha(np.concatenate(alphas)))

    grid = Grid.around(low, high, resolution)
    oriented = oriented_points(described, probe, grid)
    front = front_facing(points, oriented.normals * oriented.sided[:, None], oriented.areas, probe, covering.spacing)
    # What lies a little before the surface may be the noise of the Gaussians.
    noise = min(2 * grid.cell * float(np.median(oriented.noise)), THICKEST)
    votes = empty_votes(grid, probe, front, max(THINNEST * grid.cell, noise, 0.4 * covering.spacing))
    yield Step(STEPS - 2, STEPS, "Finding the surface")

    field, oriented = surface_field(grid, oriented, votes)
    field = bridged(without_cavities(field), votes, grid, oriented, (cloud, pressed), single)
    field = without_cavities(without_crumbs(field, CRUMB))
    yield Step(STEPS - 1, STEPS, "Finding the surface")

    vertices, triangles = polygonise(field, SMOOTHING)
    vertices = settle(vertices, topology.vertex_normals(vertices, triangles), oriented) * grid.cell + grid.origin
    return Mesh(frame.to_input(torch.from_numpy(vertices).float()), torch.from_numpy(triangles))


def _resolution(cloud: Cloud, side: float) -> int:
    """Samples along a side, as many as show all that the Gaussians can."""
    spacing, noise = float(np.median(cloud.near.spacing)), float(np.median(cloud.noise))
    cell = max(SPACINGS * spacing, NOISES * noise, 1e-9)
    return round(min(max(side / cell, COARSEST), FINEST))

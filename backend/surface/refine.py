"""A mesh brought into agreement with pictures of the Gaussians that it was made from: their outlines above all.

Gaussians that were fitted to pictures, by a network or by an optimiser, show the right outline from everywhere, while
their centres lie anywhere about the surface; a mesh through the centres is too thin here and too thick there. Here its
vertices move along their normals until its pictures (`render.mesh`) agree. Depth comes second, and only relative to its
own mean difference: half the light is gone a little before or behind the surface, how far depends on how the Gaussians
are layered, and the outline knows better.

The unknowns are the offsets along the normals, which are to be smooth: a step solves (M + k L) x = -gradient, with M
the pixels that each vertex answers for and L the mesh's Laplacian. That is Gauss and Newton's method with its matrix
summed up on the diagonal, and the preconditioned descent of "Large Steps in Inverse Rendering" (Nicolet et al. 2021,
section 3) with pixels in place of the identity: a few steps are enough. The mesh's own detail is kept, since it is the
change that is smooth.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from backend.datatypes import Gaussians, Mesh, Step
from backend.errors import BadInput
from backend.render.mesh import MeshEdges, MeshPictures
from backend.surface import topology
from backend.surface.clean import prepare
from backend.surface.refine_targets import OUTLINE_SHARE, Differences, Targets, usual_distance

FloatArray = NDArray[np.float64]

CAMERAS, CHECKS = 20, 5  # every fifth camera only checks
SIZE = 224
STEPS, SHIFTS = 12, 3  # of which so many move all vertices alike
STIFFNESS = 1.0  # of the offsets, in units of what pixels weigh at a usual vertex
LEAST_REACH, MOST_REACH = 0.004, 0.04  # in the frame where the object is 1.8 wide
FOLD = 0.3  # cosine between a face's normals before and after below which it is held back
LEAST_GAIN = 0.02  # share of the disagreement that must go, or the mesh stays as it was
ROUNDS = 60  # of the conjugate gradients
ROUND = 0.8  # thickness over width from which on Gaussians are balls
UNEVEN = 0.25  # deviation of the sizes' logarithm from which on Gaussians were not simply laid out over a surface
FEWEST = 64
MAKING = 0.75  # share of the time that a mesh takes before it is refined


def pays(gaussians: Gaussians) -> bool:
    """Whether `refine` is likely to bring a mesh of these Gaussians closer to the object.

    Where Gaussians were laid out over a surface, their centres are better than any picture of them: discs stand over
    the outline by a share of a pixel, balls by a standard deviation, noisy discs by their noise. Such Gaussians are all
    of a size, or balls. Fitted ones have sizes that differ by their content, and some flatness. (Measured in the unit
    cube on Gaussians fitted to 24 views of a cow and of a mug: Chamfer from 0.012 to 0.0025 and from 0.019 to 0.012.)
    """
    scales = gaussians.scales.detach().cpu().float()
    scales = scales[torch.isfinite(scales).all(dim=1) & (scales > 0).all(dim=1)]
    if len(scales) < FEWEST:
        return False
    thin, middle, wide = scales.sort(dim=1).values.unbind(dim=1)
    if float((thin / middle).median()) > ROUND:
        return False
    sizes = (0.5 * (middle.log() + wide.log())).sort().values
    sixth = len(sizes) // 6
    # Two thirds of a normal distribution lie within one deviation on either side; floaters do not count.
    return 0.5 * float(sizes[-1 - sixth] - sizes[sixth]) > UNEVEN


def refine(mesh: Mesh, gaussians: Gaussians, steps: int = STEPS) -> Generator[Step, None, Mesh]:
    """The mesh with its vertices moved until it looks like the Gaussians; the same faces, none of them turned over.

    A fifth of the cameras only checks: where the agreement there does not improve, the mesh comes back as it was. See
    `pays` for when to ask for it. Raises BadInput where the Gaussians have no surface, or for less than one step.
    """
    if steps < 1:
        raise BadInput(f"A refinement takes at least one step, not {steps}.")
    cloud, frame = prepare(gaussians)
    if mesh.faces.shape[0] == 0:
        return mesh
    vertices = ((mesh.vertices.detach().cpu() - frame.center) * frame.scale).float()
    yield Step(0, steps + 1, "Refining the surface")

    targets = Targets.of(cloud, CAMERAS, SIZE, float(vertices.norm(dim=1).max()))
    checks = list(range(CHECKS // 2, CAMERAS, CHECKS))
    fit = _Fit.of(vertices, mesh.faces.cpu(), targets[[view for view in range(CAMERAS) if view not in checks]])
    check = targets[checks]
    before = fit.score(check)
    yield Step(1, steps + 1, "Refining the surface")
    for step in range(steps):
        fit.step()
        yield Step(step + 2, steps + 1, "Refining the surface")
    if not fit.score(check) < (1 - LEAST_GAIN) * before:
        return mesh
    return Mesh(frame.to_input(fit.vertices(fit.offsets)).to(mesh.vertices), mesh.faces)


def refined(stage: Generator[Step, None, Mesh], gaussians: Gaussians) -> Generator[Step, None, Mesh]:
    """The mesh that `stage` makes of the Gaussians, and its refinement where that pays, as one stage."""
    if not pays(gaussians):
        return (yield from stage)
    mesh = yield from _part(stage, 0.0, MAKING)
    return (yield from _part(refine(mesh, gaussians), MAKING, 1.0))


def _part(stage: Generator[Step, None, Mesh], first: float, last: float) -> Generator[Step, None, Mesh]:
    """A stage that runs from one fraction to another of a longer one."""
    while True:
        try:
            step = next(stage)
        except StopIteration as end:
            return end.value
        yield Step(round(1000 * (first + (last - first) * step.fraction)), 1000, step.message)


@dataclass
class _Fit:
    """Vertices that move along their normals, `offsets` far, so that the pictures agree."""

    start: Tensor
    normals: Tensor
    faces: Tensor
    edges: MeshEdges
    targets: Targets
    laplacian: sparse.csr_matrix
    face_normals: FloatArray
    reach: float
    offsets: FloatArray
    taken: int = 0

    @staticmethod
    def of(vertices: Tensor, faces: Tensor, targets: Targets) -> _Fit:
        triangles, points = faces.numpy(), vertices.double().numpy()
        neighbours = topology.adjacency(triangles, len(points)).astype(np.float64)
        fit = _Fit(
            vertices,
            torch.from_numpy(topology.vertex_normals(points, triangles)).float(),
            faces,
            MeshEdges.of(faces),
            targets,
            (sparse.diags(np.asarray(neighbours.sum(axis=1)).reshape(-1)) - neighbours).tocsr(),
            topology.face_normals(points, triangles).astype(np.float64),
            MOST_REACH,
            np.zeros(len(points)),
        )
        usual = usual_distance(Differences.between(fit.draw(torch.from_numpy(fit.offsets)), targets, MOST_REACH))
        fit.reach = min(max(4 * usual, LEAST_REACH), MOST_REACH)
        return fit

    def vertices(self, offsets: FloatArray) -> Tensor:
        return self.start + torch.from_numpy(offsets).float()[:, None] * self.normals

    def draw(self, offsets: Tensor) -> MeshPictures:
        return self.targets.draw(self.start + offsets.float()[:, None] * self.normals, self.faces, self.edges)

    @torch.no_grad()
    def score(self, targets: Targets) -> float:
        """How far the mesh is from other targets than its own."""
        pictures = targets.draw(self.vertices(self.offsets), self.faces, self.edges)
        return Differences.between(pictures, targets, self.reach).score(self.reach)

    def step(self) -> None:
        """Draw, compare, and move."""
        offsets = torch.from_numpy(self.offsets).float().requires_grad_()
        with torch.enable_grad():
            pictures = self.draw(offsets)
        found = Differences.between(pictures, self.targets, self.reach)

        def of_vertices(image: Tensor, weights: Tensor) -> FloatArray:
            (gradient,) = torch.autograd.grad(image, offsets, weights[..., None], retain_graph=True)
            return gradient.double().numpy()

        # Alpha changes by one over a pixel's width, so the outline's place does by its gradient times that width.
        share = torch.full_like(found.outline, OUTLINE_SHARE * self.targets.pixel)
        outline = of_vertices(pictures.alphas, share * found.outline)
        outline_mass = of_vertices(pictures.alphas, share).clip(min=0)
        if self.taken < SHIFTS:
            # First all together: what is common to all vertices would be the last to come right.
            self.offsets = self._unfolded(self.offsets - outline.sum() / max(outline_mass.sum(), 1e-12))
        else:
            depth = of_vertices(pictures.depth, found.weight * found.distance * found.slope)
            depth_mass = of_vertices(pictures.depth, found.weight * found.slope).clip(min=0)
            self._move(outline + depth, outline_mass + depth_mass)
        self.taken += 1

    def _move(self, gradient: FloatArray, mass: FloatArray) -> None:
        """mass [n]: the sum of the pixels' weights times how much a vertex moves them."""
        seen = mass[mass > 0]
        usual = float(np.median(seen)) if len(seen) else 1.0
        stiff = STIFFNESS * usual * self.laplacian
        change = conjugate_gradients(
            (stiff + sparse.diags(mass + 1e-3 * usual)).tocsr(), -gradient - stiff @ self.offsets
        )
        self.offsets = self._unfolded(self.offsets + change)

    def _unfolded(self, wanted: FloatArray) -> FloatArray:
        """The wanted offsets, held back where a face would turn over."""
        triangles = self.faces.numpy()
        for attempt in range(8):
            normals = topology.face_normals(self.vertices(wanted).double().numpy(), triangles)
            lengths = np.linalg.norm(normals, axis=1) * np.linalg.norm(self.face_normals, axis=1)
            folded = (normals * self.face_normals).sum(axis=1) < FOLD * lengths
            if not folded.any():
                return wanted
            held = np.unique(triangles[folded])
            wanted = wanted.copy()
            wanted[held] = self.offsets[held] + (0.5 if attempt < 4 else 0.0) * (wanted - self.offsets)[held]
        return self.offsets


def conjugate_gradients(matrix: sparse.csr_matrix, right: FloatArray) -> FloatArray:
    """x [n] with matrix @ x = right, to about a percent; the matrix symmetric and positive."""
    guide = 1.0 / matrix.diagonal()
    x, residual = np.zeros_like(right), right.copy()
    direction = guide * residual
    old = first = float(residual @ direction)
    for _ in range(ROUNDS):
        if old <= 1e-5 * first or old <= 0:
            break
        product = matrix @ direction
        length = old / float(direction @ product)
        x += length * direction
        residual -= length * product
        scaled = guide * residual
        new = float(residual @ scaled)
        direction = scaled + (new / old) * direction
        old = new
    return x

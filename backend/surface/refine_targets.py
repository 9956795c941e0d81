"""What the refinement of a mesh aims at: pictures of the Gaussians from all round, and how far a mesh's differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backend.cameras import rays, world_to_camera_opencv
from backend.datatypes import Cameras, Gaussians
from backend.render.geometry import rasterization_geometry
from backend.render.mesh import MeshEdges, MeshPictures, rasterize_mesh
from backend.surface.probe import sphere_cameras

GRAZING = 0.2  # cosine between ray and face below which a depth says nothing
OUTLINE_SHARE = 100.0  # of a pixel on the outline, beside a pixel within it


@dataclass(frozen=True)
class Targets:
    """Pictures of the Gaussians in C cameras.

    depth [C, H, W] along the camera's z; alphas [C, H, W] with the outline at 0.5; seen [C, H, W] bool: where the depth
    is known; rays [C, H, W, 3] through the pixels, one unit deep; pixel: the width of a pixel at the object.
    """

    cameras: Cameras
    depth: Tensor
    alphas: Tensor
    seen: Tensor
    rays: Tensor
    pixel: float

    @staticmethod
    def of(gaussians: Gaussians, count: int, size: int, radius: float) -> Targets:
        """From `count` cameras round the ball of `radius` about the origin."""
        cameras = sphere_cameras(count, radius, size)
        depth, _, alphas = rasterization_geometry(
            gaussians.means,
            gaussians.quats,
            gaussians.scales,
            gaussians.opacities,
            world_to_camera_opencv(cameras),
            cameras.intrinsics,
            size,
            size,
            median=True,  # a mean would put the depth of a pixel with two surfaces between them
        )
        depth, alphas = depth[..., 0], alphas[..., 0]
        # A faint object has an outline too: where half of its usual opacity is reached.
        visible = alphas[:, ::2, ::2][alphas[:, ::2, ::2] > 0.05]
        outline = min(0.5, 0.5 * float(visible.quantile(0.9))) if len(visible) else 0.5
        alphas = ((alphas - 0.5 * outline) / outline).clamp(0.0, 1.0)
        _, directions = rays(cameras)
        forward = -cameras.camera_to_world[:, None, None, :3, 2]
        directions = directions / (directions * forward).sum(dim=-1, keepdim=True)
        pixel = float(cameras.camera_to_world[0, :3, 3].norm()) / float(cameras.intrinsics[0, 0, 0])
        return Targets(cameras, depth, alphas, (depth > 0) & (alphas > 0.5), directions, pixel)

    def __getitem__(self, chosen: list[int]) -> Targets:
        depth, alphas, seen, rays_ = (part[chosen] for part in (self.depth, self.alphas, self.seen, self.rays))
        return Targets(self.cameras[chosen], depth, alphas, seen, rays_, self.pixel)

    def draw(self, vertices: Tensor, faces: Tensor, edges: MeshEdges) -> MeshPictures:
        """The mesh in the same cameras."""
        where = (world_to_camera_opencv(self.cameras), self.cameras.intrinsics, self.cameras.width, self.cameras.height)
        return rasterize_mesh(vertices, faces, *where, edges=edges)


@dataclass(frozen=True)
class Differences:
    """How pictures of a mesh differ from the targets, in the unit of the vertices.

    distance [C, H, W]: how far outside of the Gaussians' surface the mesh lies, along the mesh's normal, beyond what it
    does in the middle; weight [C, H, W] of that; slope [C, H, W]: what turns a change of depth into one of the
    distance; outline [C, H, W]: how far too far out the outline is.
    """

    distance: Tensor
    weight: Tensor
    slope: Tensor
    outline: Tensor

    @staticmethod
    @torch.no_grad()
    def between(pictures: MeshPictures, targets: Targets, reach: float) -> Differences:
        """reach: a distance at which mesh and Gaussians hardly show the same surface any more."""
        slope = (pictures.normals * targets.rays).sum(dim=-1)
        facing = slope / targets.rays.norm(dim=-1)
        distance = (pictures.depth[..., 0] - targets.depth) * slope
        both = targets.seen & (pictures.face_ids >= 0) & (facing < -GRAZING)
        near = distance[both & (distance.abs() < 2 * reach)]
        bias = float(near.median()) if len(near) else 0.0
        distance = torch.where(both, distance - bias, 0.0)
        # Geman and McClure's robust loss, whose weight this is, and an even share for every place on the surface.
        weight = torch.where(both, -facing / (1 + (distance / reach) ** 2) ** 2, 0.0)
        outline = (pictures.alphas[..., 0] - targets.alphas) * targets.pixel
        return Differences(distance, weight, torch.where(both, slope, 0.0), outline)

    def score(self, reach: float) -> float:
        """The mean loss a pixel, which the steps make smaller."""
        squared = self.distance**2
        within = self.weight * squared * (1 + squared / reach**2)
        return float(within.mean() + OUTLINE_SHARE * (self.outline**2).mean())


def usual_distance(differences: Differences) -> float:
    """The median distance where both show something; 0 where they share nothing."""
    found = differences.distance[differences.weight > 0].abs()
    return float(found.median()) if len(found) else 0.0

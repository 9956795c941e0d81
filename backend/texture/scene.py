"""The Gaussians and the mesh side by side, and pictures of both from all round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from backend.cameras import world_to_camera_opencv
from backend.datatypes import Cameras, Gaussians, Mesh
from backend.errors import BadInput
from backend.render import parallel
from backend.render.rasterize import rasterization
from backend.surface import topology
from backend.surface.clean import prepare
from backend.surface.cover import cover
from backend.surface.probe import sphere_cameras
from backend.texture.paint import Picture
from backend.texture.raster import project, rasterize_triangles

FloatArray = NDArray[np.float32]

TOLERANCE = 0.06  # how far the Gaussians' depth may lie off the mesh, in the frame where the object is 1.8 wide
# A rasteriser's usual widening by 0.3 (a variance, in pixels) blurs the pictures by half a pixel, which is a texel: no
# solve for the texels undoes that. Thin Gaussians still need a little, or their pictures flicker from view to view.
WIDENING = 0.1
CLOSED = 0.9  # opacity of the Gaussians before the mesh from which on they need no growing to hide what is behind


@dataclass(frozen=True)
class Scene:
    """Both in the frame where the object is 1.8 wide.

    vertices and normals [n, 3] float32, faces [m, 3] int32, mean [3] the Gaussians' mean colour.
    """

    cloud: Gaussians
    vertices: FloatArray
    normals: FloatArray
    faces: NDArray[np.int32]
    mean: FloatArray

    @staticmethod
    def of(gaussians: Gaussians, mesh: Mesh) -> Scene:
        """Raises BadInput where the Gaussians have no colour to give or the mesh has no faces."""
        if mesh.faces.shape[0] == 0:
            raise BadInput("The mesh has no faces to paint.")
        cloud, frame = prepare(gaussians)
        vertices = ((mesh.vertices.detach().cpu() - frame.center) * frame.scale).double().numpy()
        if not np.isfinite(vertices).all():
            raise BadInput("The mesh has vertices that are not finite.", "Check the file that it came from.")
        faces = mesh.faces.cpu().numpy()
        normals = topology.vertex_normals(vertices, faces).astype(np.float32)
        mean = np.average(cloud.colors.numpy(), axis=0, weights=cloud.opacities.numpy()).astype(np.float32)
        scene = Scene(cloud, vertices.astype(np.float32), normals, faces.astype(np.int32), mean)
        return scene if scene._closed() else replace(scene, cloud=cover(cloud).gaussians)

    def cameras(self, count: int, size: int) -> Cameras:
        """Cameras all round that see all of the mesh."""
        radius = float(np.linalg.norm(self.vertices, axis=1).max())
        return sphere_cameras(count, radius, size)

    def pictures(self, cameras: Cameras) -> Iterator[Picture]:
        """What each camera sees of both."""
        viewmats = world_to_camera_opencv(cameras)
        with torch.no_grad():
            colors, alphas, _ = rasterization(
                self.cloud.means,
                self.cloud.quats,
                self.cloud.scales,
                self.cloud.opacities,
                self.cloud.colors,
                viewmats,
                cameras.intrinsics,
                cameras.width,
                cameras.height,
                eps2d=WIDENING,
                render_mode="RGB+ED",
            )
        size = (cameras.height, cameras.width)
        poses = [(viewmats[view].numpy(), cameras.intrinsics[view].numpy()) for view in range(len(cameras))]
        drawn = parallel.run(
            rasterize_triangles, [(project(self.vertices, *pose), self.faces, *size) for pose in poses]
        )
        for view, (face_ids, barycentric, mesh_depth, _) in enumerate(drawn):
            alpha = alphas[view, ..., 0].numpy()
            yield Picture(
                *poses[view],
                cameras.camera_to_world[view, :3, 3].numpy(),
                colors[view, ..., :3].numpy() / np.maximum(alpha, 1e-4)[..., None],
                alpha,
                np.ascontiguousarray(colors[view, ..., 3].numpy()),
                mesh_depth,
                face_ids,
                barycentric,
            )

    def _closed(self) -> bool:
        """Whether the Gaussians hide what is behind them nearly wherever the mesh is: then they are shown as they are,
        which is sharper."""
        alphas = [picture.alpha[np.isfinite(picture.mesh_depth)] for picture in self.pictures(self.cameras(6, 192))]
        return float(np.quantile(np.concatenate(alphas), 0.1)) > CLOSED

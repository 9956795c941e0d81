"""The data that flows from stage to stage. Every stage takes one of these and returns the next; all float32 tensors.

Canonical frame: right-handed, +Y up, front towards +Z, object centred at the origin with its longest side 1.8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from backend.errors import BadInput

CANONICAL_SIZE = 1.8  # longest side of an object in the canonical frame


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BadInput(message)


@dataclass(frozen=True)
class Cameras:
    """V pinhole cameras that share one image size.

    camera_to_world: [V, 4, 4], OpenGL axes (x right, y up, looking along -z).
    intrinsics: [V, 3, 3] in pixels; pixel (0, 0) has its centre at (0.5, 0.5), rows run downwards.
    """

    camera_to_world: Tensor
    intrinsics: Tensor
    width: int
    height: int

    def __post_init__(self) -> None:
        views = self.camera_to_world.shape[0]
        _require(tuple(self.camera_to_world.shape) == (views, 4, 4), "camera_to_world must have the shape [V, 4, 4].")
        _require(tuple(self.intrinsics.shape) == (views, 3, 3), "intrinsics must have the shape [V, 3, 3].")
        _require(self.width > 0 and self.height > 0, "A camera needs a width and a height of at least one pixel.")

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def __getitem__(self, index: slice | list[int]) -> Cameras:
        return replace(self, camera_to_world=self.camera_to_world[index], intrinsics=self.intrinsics[index])

    def to(self, device: torch.device | str) -> Cameras:
        return replace(self, camera_to_world=self.camera_to_world.to(device), intrinsics=self.intrinsics.to(device))

    def resized(self, width: int, height: int) -> Cameras:
        """The same cameras with images of another size."""
        scale = self.intrinsics.new_tensor([width / self.width, height / self.height, 1.0])
        return replace(self, intrinsics=self.intrinsics * scale[None, :, None], width=width, height=height)


@dataclass(frozen=True)
class Views:
    """Posed pictures of one object. rgba: [V, 4, H, W] in [0, 1], straight alpha, sRGB.

    caption: the words that a generator made them of, empty where it had a picture alone; None of pictures that it did
    not make.
    """

    rgba: Tensor
    cameras: Cameras
    caption: str | None = None

    def __post_init__(self) -> None:
        expected = (len(self.cameras), 4, self.cameras.height, self.cameras.width)
        actual = tuple(self.rgba.shape)
        _require(actual == expected, f"Views need rgba of the shape {expected}, not {actual}.")

    def __len__(self) -> int:
        return len(self.cameras)

    def over(self, background: float | Tensor = 1.0) -> Tensor:
        """[V, 3, H, W]: the views composited over a background colour."""
        rgb, alpha = self.rgba[:, :3], self.rgba[:, 3:]
        return rgb * alpha + (1.0 - alpha) * background

    def to(self, device: torch.device | str) -> Views:
        return replace(self, rgba=self.rgba.to(device), cameras=self.cameras.to(device))


@dataclass(frozen=True)
class Gaussians:
    """N 3D Gaussians.

    means [N, 3]; scales [N, 3] > 0, standard deviations along the local axes; quats [N, 4] wxyz, unit;
    opacities [N] in [0, 1]; colors [N, 3] sRGB in [0, 1].
    """

    means: Tensor
    scales: Tensor
    quats: Tensor
    opacities: Tensor
    colors: Tensor

    def __post_init__(self) -> None:
        n = self.means.shape[0]
        shapes = {"means": (n, 3), "scales": (n, 3), "quats": (n, 4), "opacities": (n,), "colors": (n, 3)}
        for name, shape in shapes.items():
            actual = tuple(getattr(self, name).shape)
            _require(actual == shape, f"Gaussians need {name} of the shape {shape}, not {actual}.")

    def __len__(self) -> int:
        return self.means.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Gaussians:
        return Gaussians(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def to(self, device: torch.device | str) -> Gaussians:
        return Gaussians(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh. vertices [n, 3]; faces [m, 3] int64, counter-clockwise seen from outside."""

    vertices: Tensor
    faces: Tensor

    def __post_init__(self) -> None:
        _require(self.vertices.ndim == 2 and self.vertices.shape[1] == 3, "Mesh vertices must have the shape [n, 3].")
        _require(self.faces.ndim == 2 and self.faces.shape[1] == 3, "Mesh faces must have the shape [m, 3].")
        _require(self.faces.dtype == torch.int64, "Mesh faces must be int64.")


@dataclass(frozen=True)
class TexturedMesh:
    """A mesh with a base colour image.

    corner_uvs: [m, 3, 2], one uv a face corner, origin at the bottom left. base_color: [3, S, S] sRGB in [0, 1],
    row 0 at the top of the picture (v = 1).
    """

    mesh: Mesh
    corner_uvs: Tensor
    base_color: Tensor

    def __post_init__(self) -> None:
        faces = self.mesh.faces.shape[0]
        _require(tuple(self.corner_uvs.shape) == (faces, 3, 2), "corner_uvs must have the shape [m, 3, 2].")
        _require(self.base_color.ndim == 3 and self.base_color.shape[0] == 3, "base_color must be [3, S, S].")


@dataclass(frozen=True)
class Step:
    """What a long stage yields between two pieces of work: step `step` of `steps` is done.

    A stage is a generator of these that returns its result, so whoever walks it can show progress, and cancels by
    walking no further. preview: pictures [V, 4, H, W] worth showing now, or None.
    """

    step: int
    steps: int
    message: str = ""
    preview: Tensor | None = None

    @property
    def fraction(self) -> float:
        return self.step / max(self.steps, 1)

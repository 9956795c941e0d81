"""Cameras of posed pictures as `transforms.json`, the layout of NeRF-synthetic and nerfstudio.

In the file: OpenGL camera axes, Z-up world (Blender's). Inside: OpenGL camera axes, +Y up. So (x, y, z) of the file is
(x, z, -y) inside. Intrinsics: `camera_angle_x`, or `fl_x`, `fl_y`, `cx`, `cy`, `w`, `h`, for the file or for a frame.
"""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backend.datatypes import Cameras, Views
from backend.errors import BadInput
from backend.formats.images import LoadedImage, read_image, resize
from backend.formats.whole_file import write_text

# [4, 4]: a world point of the file (Z up) to one inside (+Y up).
Z_UP_TO_Y_UP = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1.0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1.0]], dtype=torch.float64)
MOST_FRAMES = 2000
_LARGEST_FILE = 64 * 1024 * 1024
_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".PNG", ".JPG", ".JPEG")
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


@dataclass(frozen=True)
class Frame:
    """One camera of the file. camera_to_world: [4, 4] float64, OpenGL axes, +Y up.

    lens: what the file says of `camera_angle_x`, `camera_angle_y`, `fl_x`, `fl_y`, `cx`, `cy`, `w`, `h`.
    """

    picture: Path
    mask: Path | None
    camera_to_world: Tensor
    lens: dict[str, float]

    def intrinsics(self, width: int, height: int, file_size: tuple[int, int]) -> Tensor:
        """[3, 3] in pixels of the picture at `width` x `height`; the file of the picture itself has `file_size`."""
        lens = self.lens
        file_width, file_height = lens.get("w", float(file_size[0])), lens.get("h", float(file_size[1]))
        if "fl_x" in lens or "fl_y" in lens:
            focal_x = lens.get("fl_x", lens.get("fl_y", 0.0))
            focal_y = lens.get("fl_y", focal_x)
        elif "camera_angle_x" in lens:
            focal_x = 0.5 * file_width / math.tan(0.5 * lens["camera_angle_x"])
            angle_y = lens.get("camera_angle_y")
            focal_y = 0.5 * file_height / math.tan(0.5 * angle_y) if angle_y else focal_x
        else:
            focal_x = focal_y = 0.5 * file_height / math.tan(0.5 * lens["camera_angle_y"])
        center_x, center_y = lens.get("cx", file_width / 2), lens.get("cy", file_height / 2)
        scale_x, scale_y = width / file_width, height / file_height
        return torch.tensor(
            [[focal_x * scale_x, 0.0, center_x * scale_x], [0.0, focal_y * scale_y, center_y * scale_y], [0, 0, 1.0]],
            dtype=torch.float32,
        )


def write_transforms(path: Path | str, cameras: Cameras, file_names: list[str]) -> None:
    """Write the cameras, one frame a file name (relative to the json's folder). Raises BadInput if unwritable."""
    path = Path(path)
    poses = torch.linalg.inv(Z_UP_TO_Y_UP) @ cameras.camera_to_world.detach().cpu().double()
    frames = []
    for name, pose, intrinsics in zip(file_names, poses, cameras.intrinsics.detach().cpu().double(), strict=True):
        lens = {
            "fl_x": float(intrinsics[0, 0]),
            "fl_y": float(intrinsics[1, 1]),
            "cx": float(intrinsics[0, 2]),
            "cy": float(intrinsics[1, 2]),
            "w": cameras.width,
            "h": cameras.height,
        }
        frames.append({"file_path": name, **lens, "transform_matrix": pose.tolist()})
    # NeRF-synthetic's readers know nothing but this one number.
    angle = 2.0 * math.atan(0.5 * cameras.width / float(cameras.intrinsics[0, 0, 0]))
    document = {"camera_model": "OPENCV", "camera_angle_x": angle, "frames": frames}
    write_text(path, json.dumps(document, indent=1) + "\n")


def read_frames(path: Path | str, warnings: list[str] | None = None) -> list[Frame]:
    """The frames of a transforms.json in the file's order. Raises BadInput where anything in it makes no sense."""
    path, notes = Path(path), warnings if warnings is not None else []
    document = _parse(path)
    frames = document.get("frames")
    if not isinstance(frames, list) or not frames:
        raise BadInput(f"{path.name} lists no frames.", "It needs `frames`, each with file_path and transform_matrix.")
    if len(frames) > MOST_FRAMES:
        raise BadInput(f"{path.name} lists {len(frames)} frames; {MOST_FRAMES} is the most that is read.")
    model = str(document.get("camera_model", "OPENCV")).upper()
    if "FISHEYE" in model or "EQUIRECT" in model:
        raise BadInput(f"{path.name} has {model} cameras; only pinhole cameras can be used.", "Undistort the pictures.")
    if any(abs(_number(document, key, path) or 0.0) > 1e-2 for key in _DISTORTION):
        notes.append(f"The lens distortion in {path.name} is ignored; undistorted pictures work better.")
    return [_frame(document, frame, f"frame {at} of {path.name}", path) for at, frame in enumerate(frames)]


def _parse(path: Path) -> dict[str, Any]:
    try:
        if path.is_dir():
            path = path / "transforms.json"
        if path.stat().st_size > _LARGEST_FILE:
            raise BadInput(f"{path.name} is larger than a file of cameras can be.", "Pick a transforms.json.")
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise BadInput(f"There is no file of cameras at {path}.", "Check the path.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path.name} cannot be read as JSON.", "Pick a transforms.json.") from error
    if not isinstance(document, dict):
        raise BadInput(f"{path.name} is no file of cameras.", "Pick a transforms.json.")
    return document


def _number(source: dict[str, Any], key: str, where: Path | str) -> float | None:
    value = source.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInput(f"{key} in {where} is not a number.", "Correct the file.")
    return float(value)


def _frame(document: dict[str, Any], frame: Any, where: str, path: Path) -> Frame:
    if not isinstance(frame, dict):
        raise BadInput(f"{where} is not an object with file_path and transform_matrix.", "Correct the file.")
    name = frame.get("file_path")
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise BadInput(f"{where} names no picture in file_path.", "Correct the file.")
    lens: dict[str, float] = {}
    for key in ("camera_angle_x", "camera_angle_y", "fl_x", "fl_y", "cx", "cy", "w", "h"):
        value = _number(frame, key, where)
        value = _number(document, key, where) if value is None else value
        if value is not None:
            lens[key] = value
    _check_lens(lens, where)
    folder = path if path.is_dir() else path.parent
    mask_name = frame.get("mask_path")
    mask = _find(folder, mask_name) if isinstance(mask_name, str) and mask_name else None
    return Frame(_find(folder, name), mask, _pose(frame.get("transform_matrix"), where), lens)


def _check_lens(lens: dict[str, float], where: str) -> None:
    if not {"fl_x", "fl_y", "camera_angle_x", "camera_angle_y"} & lens.keys():
        raise BadInput(f"{where} has no focal length.", "Give camera_angle_x, or fl_x in pixels.")
    for key in ("fl_x", "fl_y", "w", "h"):
        if lens.get(key, 1.0) <= 0:
            raise BadInput(f"{key} in {where} must be above zero.", "Correct the file.")
    for key in ("camera_angle_x", "camera_angle_y"):
        if not 0.0 < lens.get(key, 1.0) < math.pi:
            raise BadInput(f"{key} in {where} must lie between 0 and pi (radians).", "Correct the file.")


def _find(folder: Path, name: str) -> Path:
    """The picture that a file_path means: NeRF-synthetic leaves the extension out, Windows writes backslashes."""
    for base in (folder / name, folder / name.replace("\\", "/")):
        for candidate in (base, *(base.with_name(base.name + extension) for extension in _EXTENSIONS)):
            with contextlib.suppress(OSError):  # a name too long for the system names no file either
                if candidate.is_file():
                    return candidate
    name = name if len(name) < 200 else name[:200] + "..."
    raise BadInput(f"The picture {name} that {folder / 'transforms.json'} names is missing.", "Put it beside the file.")


def _pose(matrix: Any, where: str) -> Tensor:
    """[4, 4] float64 camera_to_world inside, with a proper rotation."""
    try:
        pose = torch.tensor(matrix, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"transform_matrix of {where} is not a matrix of numbers.", "Correct the file.") from error
    if tuple(pose.shape) == (3, 4):
        pose = torch.cat([pose, pose.new_tensor([[0.0, 0.0, 0.0, 1.0]])])
    if tuple(pose.shape) != (4, 4) or not bool(pose.isfinite().all()):
        raise BadInput(f"transform_matrix of {where} is not a finite 4 x 4 matrix.", "Correct the file.")
    rotation = pose[:3, :3]
    # Some exporters leave the camera object's own scale in; it means nothing for a camera.
    scale = torch.linalg.det(rotation).abs() ** (1 / 3)
    bottom = pose.new_tensor([0.0, 0.0, 0.0, 1.0])
    identity = torch.eye(3, dtype=torch.float64)
    if float(scale) > 1e-9:
        rotation = rotation / scale
    proper = torch.linalg.det(rotation) > 0 and bool((rotation.T @ rotation - identity).abs().max() < 0.05)
    if float(scale) <= 1e-9 or not proper or not torch.allclose(pose[3], bottom, atol=1e-6):
        raise BadInput(f"transform_matrix of {where} is no rotation and position of a camera.", "Correct the file.")
    u, _, vh = torch.linalg.svd(rotation)
    pose = pose.clone()
    pose[:3, :3] = u @ vh
    return Z_UP_TO_Y_UP @ pose


def read_views(path: Path | str, size: int | None = None, warnings: list[str] | None = None) -> Views:
    """The posed pictures of a transforms.json, +Y up, brought to one size.

    size: the side of the square that each is fitted into (what is left over stays transparent); None keeps the
    pictures as they are, or fits them into the largest where they differ. Raises BadInput.
    """
    notes = warnings if warnings is not None else []
    frames = read_frames(path, notes)
    pictures = [read_image(frame.picture, max_side=2 * size if size else 2048) for frame in frames]
    for picture in pictures:
        notes.extend(picture.warnings)
    heights = [picture.rgba.shape[1] for picture in pictures]
    widths = [picture.rgba.shape[2] for picture in pictures]
    width, height = (size, size) if size else (max(widths), max(heights))
    fitted = [_fit(frame, picture, width, height) for frame, picture in zip(frames, pictures, strict=True)]
    cameras = Cameras(
        torch.stack([frame.camera_to_world for frame in frames]).float(),
        torch.stack([intrinsics for _, intrinsics in fitted]),
        width,
        height,
    )
    return Views(torch.stack([rgba for rgba, _ in fitted]), cameras)


def _fit(frame: Frame, picture: LoadedImage, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Scale a picture to fit, centre it, pad with nothing; the intrinsics go the same way."""
    old_height, old_width = picture.rgba.shape[1:]
    scale = min(width / old_width, height / old_height)
    new_width, new_height = max(1, round(old_width * scale)), max(1, round(old_height * scale))
    left, top = (width - new_width) // 2, (height - new_height) // 2
    intrinsics = frame.intrinsics(new_width, new_height, picture.file_size)
    intrinsics[0, 2] += left
    intrinsics[1, 2] += top
    resized = resize(picture.rgba, new_height, new_width)
    padding = (left, width - new_width - left, top, height - new_height - top)
    return torch.nn.functional.pad(resized, padding), intrinsics

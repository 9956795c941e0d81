"""Cameras of posed pictures: our own files, other tools', and files that make no sense."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.cameras import orbit
from backend.errors import BadInput
from backend.formats.images import write_png
from backend.formats.transforms_json import read_frames, read_views, write_transforms

# NeRF-synthetic: a camera at Blender's (0, -4, 0), in front, looking along +Y with Z up.
FRONT = [[1.0, 0, 0, 0], [0, 0, -1.0, -4.0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]]


def scene(folder: Path, size: tuple[int, int] = (32, 32), **lens: Any) -> dict[str, Any]:
    """One frame with its picture; size is (width, height)."""
    write_png(folder / "a.png", torch.full((4, size[1], size[0]), 0.5))
    lens = lens or {"camera_angle_x": math.radians(50)}
    return {**lens, "frames": [{"file_path": "a.png", "transform_matrix": FRONT}]}


def saved(folder: Path, document: Any) -> Path:
    path = folder / "transforms.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    cameras = orbit([0.0, 90.0, 200.0], [10.0, -20.0, 45.0], 2.5, 40.0, 48)
    names = [f"views/{index}.png" for index in range(3)]
    (tmp_path / "views").mkdir()
    for index, name in enumerate(names):
        write_png(tmp_path / name, torch.full((4, 48, 48), 0.2 * (index + 1)))
    write_transforms(tmp_path / "transforms.json", cameras, names)
    views = read_views(tmp_path / "transforms.json")
    torch.testing.assert_close(views.cameras.camera_to_world, cameras.camera_to_world, atol=1e-5, rtol=0)
    torch.testing.assert_close(views.cameras.intrinsics, cameras.intrinsics)
    torch.testing.assert_close(views.rgba[:, 0, 0, 0], torch.tensor([0.2, 0.4, 0.6]), atol=3e-3, rtol=0)


def test_the_file_has_z_up(tmp_path: Path) -> None:
    write_transforms(tmp_path / "t.json", orbit([0.0], 0.0, 4.0, 50.0, 32), ["a.png"])
    document = json.loads((tmp_path / "t.json").read_text())
    # The front of the object is +Z inside, so the front camera stands at Blender's -Y.
    torch.testing.assert_close(torch.tensor(document["frames"][0]["transform_matrix"]), torch.tensor(FRONT))
    assert document["camera_angle_x"] == pytest.approx(math.radians(50))


def test_nerf_synthetic_files(tmp_path: Path) -> None:
    document = scene(tmp_path)
    document["frames"][0]["file_path"] = "./a"  # without an extension
    views = read_views(saved(tmp_path, document))
    expected = orbit([0.0], 0.0, 4.0, 50.0, 32)
    torch.testing.assert_close(views.cameras.camera_to_world, expected.camera_to_world, atol=1e-6, rtol=0)
    torch.testing.assert_close(views.cameras.intrinsics, expected.intrinsics)


def test_nerfstudio_files_with_other_pixel_sizes(tmp_path: Path) -> None:
    """Intrinsics for 64 x 48, pictures saved at half of that, lens values of one frame before those of the file."""
    document = scene(tmp_path, (32, 24), fl_x=60.0, fl_y=62.0, cx=30.0, cy=25.0, w=64, h=48)
    document["frames"].append({"file_path": "a.png", "transform_matrix": FRONT, "fl_x": 80.0})
    views = read_views(saved(tmp_path, document))
    expected = torch.tensor([[30.0, 0, 15.0], [0, 31.0, 12.5], [0, 0, 1.0]])
    torch.testing.assert_close(views.cameras.intrinsics[0], expected)
    assert float(views.cameras.intrinsics[1, 0, 0]) == 40.0
    assert (views.cameras.width, views.cameras.height) == (32, 24)


def test_squares_keep_the_rays(tmp_path: Path) -> None:
    """A picture that is fitted into a square is padded, not stretched: a pixel still belongs to the same ray."""
    document = scene(tmp_path, (64, 32), fl_x=50.0, cx=20.0, cy=10.0)
    picture = torch.zeros(4, 32, 64)
    picture[3] = 1.0
    picture[0, 10:14, 40:44] = 1.0  # a mark whose middle is at (42, 12)
    write_png(tmp_path / "a.png", picture)
    path = saved(tmp_path, document)
    wide, square = read_views(path), read_views(path, size=32)
    assert tuple(square.rgba.shape) == (1, 4, 32, 32)
    assert float(square.rgba[0, 3, :8].max()) == 0.0  # nothing is above the picture
    ys, xs = torch.nonzero(square.rgba[0, 0] * square.rgba[0, 3] > 0.5, as_tuple=True)
    for views, (x, y) in ((wide, (42.0, 12.0)), (square, (xs.float().mean() + 0.5, ys.float().mean() + 0.5))):
        intrinsics = views.cameras.intrinsics[0]
        assert float((x - intrinsics[0, 2]) / intrinsics[0, 0]) == pytest.approx((42 - 20) / 50, abs=1e-3)
        assert float((y - intrinsics[1, 2]) / intrinsics[1, 1]) == pytest.approx((12 - 10) / 50, abs=1e-3)


def test_mixed_sizes_are_brought_to_one(tmp_path: Path) -> None:
    document = scene(tmp_path)
    write_png(tmp_path / "b.png", torch.full((4, 64, 40), 0.5))
    document["frames"].append({"file_path": "b.png", "transform_matrix": FRONT})
    views = read_views(saved(tmp_path, document))
    assert tuple(views.rgba.shape) == (2, 4, 64, 40)
    # The same angle of view, whatever the size.
    for intrinsics, width in zip(views.cameras.intrinsics, (40, 40), strict=True):
        assert 2 * math.degrees(math.atan(width / 2 / float(intrinsics[0, 0]))) == pytest.approx(50, abs=0.1)


def test_a_camera_object_with_a_scale_is_understood(tmp_path: Path) -> None:
    document = copy.deepcopy(scene(tmp_path))
    for row in document["frames"][0]["transform_matrix"][:3]:
        row[:3] = [0.01 * value for value in row[:3]]
    pose = read_frames(saved(tmp_path, document))[0].camera_to_world
    torch.testing.assert_close(pose[:3, :3], torch.eye(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(pose[:3, 3], torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64))


def test_distortion_is_told_of(tmp_path: Path) -> None:
    warnings: list[str] = []
    read_frames(saved(tmp_path, {**scene(tmp_path), "k1": -0.2}), warnings)
    assert any("distortion" in warning for warning in warnings)


def broken(change: Any) -> Any:
    def build(document: dict[str, Any]) -> Any:
        document = copy.deepcopy(document)
        result = change(document)
        return document if result is None else result

    return build


BROKEN = {
    "not json": lambda document: "hello",
    "a list": lambda document: [],
    "deep": lambda document: "[" * 100_000,
    "no frames": broken(lambda d: d.pop("frames") and None),
    "empty frames": broken(lambda d: d.update(frames=[])),
    "frames are numbers": broken(lambda d: d.update(frames=[1, 2])),
    "too many frames": broken(lambda d: d.update(frames=d["frames"] * 2001)),
    "no matrix": broken(lambda d: d["frames"][0].pop("transform_matrix") and None),
    "3 x 3": broken(lambda d: d["frames"][0].update(transform_matrix=[[1, 0, 0], [0, 1, 0], [0, 0, 1]])),
    "ragged": broken(lambda d: d["frames"][0].update(transform_matrix=[[1, 0], [0, 1, 0], [0], [1]])),
    "words": broken(lambda d: d["frames"][0].update(transform_matrix=[["a"] * 4] * 4)),
    "NaN": broken(lambda d: d["frames"][0]["transform_matrix"][0].__setitem__(3, float("nan"))),
    "infinite": broken(lambda d: d["frames"][0]["transform_matrix"][0].__setitem__(0, float("inf"))),
    "zeros": broken(lambda d: d["frames"][0].update(transform_matrix=[[0.0] * 4] * 3 + [[0, 0, 0, 1]])),
    "mirrored": broken(lambda d: d["frames"][0]["transform_matrix"][0].__setitem__(0, -1.0)),
    "sheared": broken(lambda d: d["frames"][0]["transform_matrix"][0].__setitem__(1, 0.7)),
    "projective": broken(lambda d: d["frames"][0]["transform_matrix"].__setitem__(3, [0, 0, 1, 0])),
    "no lens": broken(lambda d: d.pop("camera_angle_x") and None),
    "angle of 0": broken(lambda d: d.update(camera_angle_x=0)),
    "angle in degrees": broken(lambda d: d.update(camera_angle_x=50.0)),
    "angle is text": broken(lambda d: d.update(camera_angle_x="50")),
    "angle is true": broken(lambda d: d.update(camera_angle_x=True)),
    "focal of 0": broken(lambda d: d.update(fl_x=0)),
    "focal is NaN": broken(lambda d: d.update(fl_x=float("nan"))),
    "width of 0": broken(lambda d: d.update(w=0)),
    "no picture": broken(lambda d: d["frames"][0].update(file_path="missing.png")),
    "picture is a number": broken(lambda d: d["frames"][0].update(file_path=5)),
    "picture is empty": broken(lambda d: d["frames"][0].update(file_path="")),
    "picture is a null": broken(lambda d: d["frames"][0].update(file_path="a\0.png")),
    "picture is endless": broken(lambda d: d["frames"][0].update(file_path="a" * 5000)),
    "fisheye": broken(lambda d: d.update(camera_model="OPENCV_FISHEYE")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_make_no_sense_get_a_sentence(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, BROKEN[name](scene(tmp_path)))
    with pytest.raises(BadInput) as caught:
        read_views(path)
    assert len(caught.value.message) < 1000


def test_missing_files_get_a_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "none" / "transforms.json"):
        with pytest.raises(BadInput):
            read_views(path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(BadInput):
        read_views(tmp_path / "binary.json")

"""3DGS .ply files: our own, other tools', damaged ones."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.datatypes import Gaussians
from backend.errors import BadInput
from backend.formats.gaussian_ply import PROPERTIES, read_gaussian_ply, write_gaussian_ply


def some_gaussians(count: int = 50) -> Gaussians:
    random = torch.Generator().manual_seed(3)
    return Gaussians(
        torch.randn(count, 3, generator=random),
        torch.rand(count, 3, generator=random) * 0.1 + 0.001,
        torch.nn.functional.normalize(torch.randn(count, 4, generator=random), dim=1),
        torch.rand(count, generator=random) * 0.9 + 0.05,
        torch.rand(count, 3, generator=random),
    )


def values(index: int) -> dict[str, float]:
    """One stored row with known meaning."""
    row = dict.fromkeys(PROPERTIES, 0.0)
    return row | {
        "x": float(index),
        "y": 2.0,
        "z": -1.0,
        "scale_0": -2.0,
        "scale_1": -3.0,
        "scale_2": -4.0,
        "rot_0": 2.0,
    }


def write_ply(path: Path, layout: str, properties: list[tuple[str, str]], rows: list[dict[str, float]], **more) -> Path:
    """A .ply as another tool might write it."""
    before, body_before = more.get("before", ([], b""))
    header = ["ply", f"format {layout} 1.0", "comment made by a test", *before, f"element vertex {len(rows)}"]
    header += [f"property {kind} {name}" for kind, name in properties]
    header += [*more.get("after", []), "end_header"]
    end = more.get("newline", "\n")
    content = (end.join(header) + end).encode()
    if layout == "ascii":
        content += body_before
        content += "".join(" ".join(repr(row.get(name, 0)) for _, name in properties) + "\n" for row in rows).encode()
    else:
        order = "<" if layout == "binary_little_endian" else ">"
        codes = {"float": "f", "double": "d", "uchar": "B", "int": "i"}
        content += body_before
        for row in rows:
            for kind, name in properties:
                value = row.get(name, 0)
                content += struct.pack(order + codes[kind], value if kind in ("float", "double") else int(value))
    path.write_bytes(content)
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    before = some_gaussians()
    assert write_gaussian_ply(tmp_path / "a.ply", before) == 50
    after = read_gaussian_ply(tmp_path / "a.ply")
    for name in ("means", "scales", "quats", "opacities", "colors"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), atol=2e-5, rtol=1e-4)


def test_the_file_is_the_standard_one(tmp_path: Path) -> None:
    one = Gaussians(
        torch.tensor([[1.0, 2.0, 3.0]]),
        torch.tensor([[0.1, 0.2, 0.0]]),
        torch.tensor([[0.5, 0.5, 0.5, 0.5]]),
        torch.tensor([1.0]),
        torch.tensor([[0.5, 1.0, 0.0]]),
    )
    write_gaussian_ply(tmp_path / "a.ply", one)
    content = (tmp_path / "a.ply").read_bytes()
    header, body = content.split(b"end_header\n")
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\n")
    assert [line.split()[-1].decode() for line in header.splitlines() if b"property" in line] == list(PROPERTIES)
    stored = np.frombuffer(body, "<f4")
    assert stored[:3].tolist() == [1.0, 2.0, 3.0]
    np.testing.assert_allclose(stored[3:6], [0.0, 1.7724539, -1.7724539], atol=1e-5)
    # 1 - 1e-6 is not 0.999999 in single precision: its logit is 13.8023, not 13.8155.
    np.testing.assert_allclose(stored[6], 13.8023, atol=1e-3)
    np.testing.assert_allclose(stored[7:10], [np.log(0.1), np.log(0.2), np.log(1e-8)], atol=1e-4)


def test_transparent_gaussians_are_left_out(tmp_path: Path) -> None:
    cloud = some_gaussians(4)
    cloud = Gaussians(cloud.means, cloud.scales, cloud.quats, torch.tensor([0.0, 0.00499, 0.005, 0.5]), cloud.colors)
    assert write_gaussian_ply(tmp_path / "a.ply", cloud) == 2
    torch.testing.assert_close(read_gaussian_ply(tmp_path / "a.ply").means, cloud.means[2:])


@pytest.mark.parametrize("layout", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_other_tools_files(tmp_path: Path, layout: str, kind: str, newline: str) -> None:
    names = [*reversed(PROPERTIES), "nx", "ny", "nz", *(f"f_rest_{index}" for index in range(45))]
    properties = [(kind, name) for name in names] + [("uchar", "red"), ("int", "label")]
    rows = [values(index) for index in range(3)]
    path = write_ply(tmp_path / "other.ply", layout, properties, rows, newline=newline)
    warnings: list[str] = []
    cloud = read_gaussian_ply(path, warnings)
    assert cloud.means.tolist() == [[0.0, 2.0, -1.0], [1.0, 2.0, -1.0], [2.0, 2.0, -1.0]]
    torch.testing.assert_close(cloud.scales[0], torch.tensor([-2.0, -3.0, -4.0]).exp())
    torch.testing.assert_close(cloud.quats[0], torch.tensor([1.0, 0, 0, 0]))
    torch.testing.assert_close(cloud.opacities, torch.full((3,), 0.5))
    torch.testing.assert_close(cloud.colors, torch.full((3, 3), 0.5))
    assert any("direction of view" in warning for warning in warnings)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spherical_harmonics_of_any_degree(tmp_path: Path, degree: int) -> None:
    rest = [f"f_rest_{index}" for index in range(3 * ((degree + 1) ** 2 - 1))]
    names = [*PROPERTIES[:6], *rest, *PROPERTIES[6:]]
    rows = [values(0) | {"f_dc_1": 1.0} | dict.fromkeys(rest, 9.0)]
    warnings: list[str] = []
    path = write_ply(tmp_path / "a.ply", "binary_little_endian", [("float", name) for name in names], rows)
    cloud = read_gaussian_ply(path, warnings)
    torch.testing.assert_close(cloud.colors, torch.tensor([[0.5, 0.7820948, 0.5]]))
    assert len(warnings) == (degree > 0)


@pytest.mark.parametrize("layout", ["ascii", "binary_little_endian"])
def test_elements_before_and_after_the_gaussians(tmp_path: Path, layout: str) -> None:
    properties = [("float", name) for name in PROPERTIES]
    before = (
        ["element camera 2", "property float focal"],
        b"5\n6\n" if layout == "ascii" else struct.pack("<ff", 5, 6),
    )
    path = write_ply(
        tmp_path / "other.ply",
        layout,
        properties,
        [values(7)],
        before=before,
        after=["element face 0", "property list uchar int vertex_indices"],
    )
    assert read_gaussian_ply(path).means.tolist() == [[7.0, 2.0, -1.0]]


def test_flat_gaussians_get_a_thickness(tmp_path: Path) -> None:
    properties = [("float", name) for name in PROPERTIES if name != "scale_2"]
    cloud = read_gaussian_ply(write_ply(tmp_path / "flat.ply", "ascii", properties, [values(0)]))
    assert 0 < float(cloud.scales[0, 2]) < 0.02 * float(cloud.scales[0, 1])


def test_broken_rows_are_dropped_with_a_warning(tmp_path: Path) -> None:
    rows = [values(index) for index in range(5)]
    rows[0]["x"] = float("nan")
    rows[1]["scale_0"] = float("inf")
    rows[2] |= {"rot_0": 0.0}
    rows[3]["opacity"] = float("inf")  # means wholly opaque
    properties = [("float", name) for name in PROPERTIES]
    warnings: list[str] = []
    cloud = read_gaussian_ply(write_ply(tmp_path / "a.ply", "binary_little_endian", properties, rows), warnings)
    assert cloud.means[:, 0].tolist() == [3.0, 4.0]
    assert cloud.opacities[0] > 0.999
    assert any("3 of 5" in warning for warning in warnings)


def damaged() -> dict[str, bytes]:
    header = b"ply\nformat binary_little_endian 1.0\nelement vertex %s\n"
    properties = b"".join(b"property float " + name.encode() + b"\n" for name in PROPERTIES)
    nan = struct.pack("<14f", *[float("nan")] * 14)
    return {
        "empty": b"",
        "not a ply": b"PNG....",
        "no end": header % b"1" + properties,
        "no gaussians": header % b"0" + properties + b"end_header\n",
        "negative": header % b"-4" + properties + b"end_header\n",
        "not a number": header % b"many" + properties + b"end_header\n",
        "cut short": header % b"3" + properties + b"end_header\n" + nan,
        "promises too much": header % b"19999999999" + properties + b"end_header\n" + nan,
        "promises a little too much": header % b"19999999" + properties + b"end_header\n" + nan,
        "only nan": header % b"1" + properties + b"end_header\n" + nan,
        "a mesh": header % b"1" + b"property float x\nproperty float y\nproperty float z\nend_header\n" + nan,
        "compressed": header % b"1" + b"property uint packed_position\nend_header\n" + nan,
        "lists": header % b"1" + properties + b"property list uchar int what\nend_header\n" + nan,
        "twice": header % b"1" + properties + b"property float x\nend_header\n" + nan,
        "odd type": header % b"1" + b"property quaternion q\nend_header\n" + nan,
        "odd format": b"ply\nformat binary_middle_endian 1.0\nelement vertex 1\n" + properties + b"end_header\n" + nan,
        "property first": b"ply\nformat ascii 1.0\nproperty float x\nend_header\n",
        "ascii words": b"ply\nformat ascii 1.0\nelement vertex 1\n"
        + properties
        + b"end_header\n"
        + b"one " * 14
        + b"\n",
        "ascii short": b"ply\nformat ascii 1.0\nelement vertex 2\n" + properties + b"end_header\n" + b"1 " * 14 + b"\n",
        "ascii few": b"ply\nformat ascii 1.0\nelement vertex 1\n"
        + properties
        + b"end_header\n"
        + b"12345678 " * 9
        + b"\n",
    }


@pytest.mark.parametrize("name", damaged())
def test_damaged_files_get_a_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.ply"
    path.write_bytes(damaged()[name])
    with pytest.raises(BadInput) as caught:
        read_gaussian_ply(path)
    assert "bad.ply" in caught.value.message
    assert caught.value.fix


def test_missing_files_and_folders_get_a_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ply", tmp_path):
        with pytest.raises(BadInput):
            read_gaussian_ply(path)


def test_nothing_is_left_where_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        write_gaussian_ply(tmp_path / "missing" / "a.ply", some_gaussians())
    (tmp_path / "a.ply").mkdir()
    with pytest.raises(BadInput):
        write_gaussian_ply(tmp_path / "a.ply", some_gaussians())
    assert [path.name for path in tmp_path.iterdir()] == ["a.ply"]

"""The packed .ply of web editors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backend.errors import BadInput
from backend.formats.gaussian_ply import SH_DC, read_gaussian_ply
from backend.formats.packed_ply import CHUNK, RANGES, WORDS

# Position, DC colour, logit opacity, log scales, quaternion of four Gaussians, and what PlayCanvas' splat-transform
# 2.7.1 makes of them (in an order of its own).
ROWS = [
    [0, 1, 2, 0.5, -1, 1.5, 2, -3, -4, -5, 0.9, 0.1, 0.2, 0.3],
    [1, -1, 0, -0.5, 0, 1, -2, -2, -6, -5, 0.1, -0.9, 0.2, 0.3],
    [-1, 0.5, 1, 1, 1, -1.5, 0, -4, -4, -7, 0.1, 0.2, 0.3, -0.9],
    [0.25, 0.5, 1.5, 0, 0.1, 0.2, 1, -4.5, -4, -3, 0.1, 0.2, 0.9, 0.3],
]
PACKED = bytes.fromhex(
    "000080bf000080bf000000000000803f0000803f00000040000090c00000c0c00000e0c0000000c0000080c0000040c0a3c8b73e8b225f3e"
    "a1679d3d5d37483f5d37483f0c536c3f0000e0ff21ad555b0004e0ff1ed4800000fc170021ad55db00f83f338000fffffffdf79fde52aaa4"
    "ffff1f00ba908c55ffff1f80de52aa2400fc9f99e1ff00aa"
)
_SIDES = ("x", "y", "z", "scale_x", "scale_y", "scale_z", "r", "g", "b")


def packed(path: Path, chunks: int = 1, vertices: int = 4, body: bytes = PACKED, kind: str = "uint") -> Path:
    parts = (_SIDES[:3], _SIDES[3:6], _SIDES[6:])
    fields = [f"{end}_{name}" for part in parts for end in ("min", "max") for name in part]
    header = ["ply", "format binary_little_endian 1.0", f"element chunk {chunks}"]
    header += [f"property float {name}" for name in fields]
    header += [f"element vertex {vertices}", *(f"property {kind} {name}" for name in WORDS), "end_header"]
    path.write_bytes(("\n".join(header) + "\n").encode() + body)
    return path


def test_what_an_editor_packed(tmp_path: Path) -> None:
    assert set(RANGES) == {f"{end}_{name}" for name in _SIDES[:6] for end in ("min", "max")}
    cloud = read_gaussian_ply(packed(tmp_path / "a.compressed.ply"))
    rows = torch.tensor(ROWS)
    nearest = torch.cdist(cloud.means, rows[:, :3]).argmin(1)
    assert sorted(nearest.tolist()) == [0, 1, 2, 3]
    means, dc, logits, log_scales, quats = rows[nearest].split([3, 3, 1, 3, 4], dim=1)
    assert torch.allclose(cloud.means, means, atol=0.002)
    assert torch.allclose(cloud.scales.log(), log_scales, atol=0.005)
    assert torch.allclose(cloud.opacities, logits[:, 0].sigmoid(), atol=0.003)
    assert torch.allclose(cloud.colors, (dc * SH_DC + 0.5).clamp(0, 1), atol=0.003)
    same = (cloud.quats * torch.nn.functional.normalize(quats, dim=1)).sum(1).abs()
    assert torch.allclose(same, torch.ones(4), atol=1e-4)


def test_many_chunks(tmp_path: Path) -> None:
    """Each Gaussian takes the ranges of its own chunk."""
    ranges, words = PACKED[:72], PACKED[72:]
    other = torch.frombuffer(bytearray(ranges), dtype=torch.float32).clone()
    other[0] += 10.0  # min_x and max_x
    other[3] += 10.0
    body = ranges + other.numpy().tobytes() + words * (CHUNK // 2)
    cloud = read_gaussian_ply(packed(tmp_path / "a.ply", 2, 2 * CHUNK, body))
    assert torch.allclose(cloud.means[CHUNK:, 0], cloud.means[:CHUNK, 0] + 10, atol=1e-5)
    assert torch.equal(cloud.means[CHUNK:, 1], cloud.means[:CHUNK, 1])


@pytest.mark.parametrize("damage", ["cut", "few chunks", "floats", "no ranges", "ascii"])
def test_damaged_packed_files_get_a_sentence(damage: str, tmp_path: Path) -> None:
    path = packed(
        tmp_path / "bad.ply",
        vertices=CHUNK + 4 if damage == "few chunks" else 4,
        body=PACKED[:-3] if damage == "cut" else PACKED + PACKED * 99,
        kind="float" if damage == "floats" else "uint",
    )
    content = path.read_bytes()
    if damage == "no ranges":
        content = content.replace(b"min_scale_y", b"least_scale")
    elif damage == "ascii":
        content = content.replace(b"binary_little_endian", b"ascii")
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_gaussian_ply(path)
    assert "bad.ply" in caught.value.message

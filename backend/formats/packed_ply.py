"""The packed .ply that web editors save (PlayCanvas, SuperSplat: "compressed.ply"), unpacked to 3DGS columns.

Gaussians stand in chunks of 256. A chunk holds the least and greatest position, log scale and (in newer files) colour;
a Gaussian holds four 32-bit words that say where between them it lies, and a quaternion without its largest component.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHUNK = 256
WORDS = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
RANGES = tuple(f"{end}_{name}" for name in ("x", "y", "z", "scale_x", "scale_y", "scale_z") for end in ("min", "max"))
_COLOR_RANGES = tuple(f"{end}_{name}" for name in "rgb" for end in ("min", "max"))


def unpack(chunks: NDArray, words: NDArray, sh_dc: float) -> dict[str, NDArray[np.float32]]:
    """Columns of float32 [N] by their 3DGS names: logit opacity, log scales, SH DC colours, wxyz quaternions.

    chunks: structured [C], C * CHUNK >= N, with the fields RANGES; words: structured [N] with the fields WORDS; sh_dc:
    the constant of the zeroth spherical harmonic.
    """
    of_chunk = np.arange(len(words)) // CHUNK

    def between(share: NDArray, name: str) -> NDArray[np.float32]:
        low = chunks[f"min_{name}"].astype(np.float32)[of_chunk]
        high = chunks[f"max_{name}"].astype(np.float32)[of_chunk]
        return low + share * (high - low)

    columns: dict[str, NDArray[np.float32]] = {}
    for name, share in zip("xyz", _triple(words["packed_position"]), strict=True):
        columns[name] = between(share, name)
    for axis, share in enumerate(_triple(words["packed_scale"])):
        columns[f"scale_{axis}"] = between(share, f"scale_{'xyz'[axis]}")
    for axis, quat in enumerate(_quaternion(words["packed_rotation"])):
        columns[f"rot_{axis}"] = quat
    color = words["packed_color"]
    ranged = chunks.dtype.names is not None and set(_COLOR_RANGES) <= set(chunks.dtype.names)
    for axis, name in enumerate("rgb"):
        share = _bits(color, 24 - 8 * axis, 8)
        columns[f"f_dc_{axis}"] = ((between(share, name) if ranged else share) - 0.5) / np.float32(sh_dc)
    alpha = np.clip(_bits(color, 0, 8), 1e-6, 1 - 1e-6)
    columns["opacity"] = np.log(alpha / (1 - alpha))
    return columns


def _bits(words: NDArray, first: int, count: int) -> NDArray[np.float32]:
    """`count` bits from bit `first` on, as a share of the greatest number they can hold."""
    most = (1 << count) - 1
    return ((words.astype(np.uint32) >> np.uint32(first)) & np.uint32(most)).astype(np.float32) / np.float32(most)


def _triple(words: NDArray) -> tuple[NDArray[np.float32], ...]:
    return _bits(words, 21, 11), _bits(words, 11, 10), _bits(words, 0, 11)


def _quaternion(words: NDArray) -> NDArray[np.float32]:
    """[4, N] wxyz, unit: three components of ten bits within +-sqrt(1/2), and which one is left out."""
    small = np.stack([(_bits(words, first, 10) - 0.5) * np.float32(np.sqrt(2.0)) for first in (20, 10, 0)])
    largest = np.sqrt(np.clip(1 - (small**2).sum(axis=0), 0, 1))
    missing = words.astype(np.uint32) >> np.uint32(30)
    quats = np.empty((4, len(words)), np.float32)
    for place in range(4):
        here = missing == place
        quats[:, here] = np.insert(small[:, here], place, largest[here], axis=0)
    return quats

"""The world's building blocks: solid primitives as rows of numbers, and their signed distances in numba.

A primitive is one float32 row; the columns are named below. Distances are in the units of the scene, negative inside.
Boxes, cones, capsules and tori are exact or a lower bound, ellipsoids approximate: all are safe to sphere trace.
"""

from __future__ import annotations

import numba
import numpy as np

ELLIPSOID, BOX, CONE, TORUS, CAPSULE, PRISM, POLYGON_CONE = range(7)
UNION, SUBTRACT = range(2)
PLAIN, STRIPES, BANDS, DOTS, CHECKER, WOOD, BRICKS, GRADIENT = range(8)

# Columns of a row.
SHAPE, OPERATION = 0, 1
SIZE = 2  # four numbers, see `local_distance`
POSITION = 6  # centre, three numbers
ROTATION = 9  # world-to-local, row-major 3x3
BOUND = 18  # radius of a sphere round POSITION that holds the primitive
COLOR, SECOND_COLOR = 19, 22
PATTERN, PERIOD = 25, 26  # PERIOD in scene units
COLUMNS = 27


@numba.njit(fastmath=True, cache=True)
def local_distance(row: np.ndarray, x: float, y: float, z: float) -> float:
    """Signed distance of a point in the primitive's own axes (its axis is y)."""
    shape = int(row[SHAPE])
    a, b, c, d = row[SIZE], row[SIZE + 1], row[SIZE + 2], row[SIZE + 3]
    if shape == ELLIPSOID:  # radii a, b, c
        k0 = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
        k1 = np.sqrt((x / (a * a)) ** 2 + (y / (b * b)) ** 2 + (z / (c * c)) ** 2)
        if k1 < 1e-6:
            return -min(a, min(b, c))
        return k0 * (k0 - 1.0) / k1
    if shape == BOX:  # half sides a, b, c, rounding d
        qx, qy, qz = abs(x) - a + d, abs(y) - b + d, abs(z) - c + d
        outside = np.sqrt(max(qx, 0.0) ** 2 + max(qy, 0.0) ** 2 + max(qz, 0.0) ** 2)
        return outside + min(max(qx, max(qy, qz)), 0.0) - d
    if shape == CONE:  # half height a, bottom radius b, top radius c, rounding d
        height, bottom, top = a - d, max(b - d, 0.0), max(c - d, 0.0)
        r = np.sqrt(x * x + z * z)
        k1x, k1y, k2x, k2y = top, height, top - bottom, 2.0 * height
        cap = min(r, bottom if y < 0.0 else top)
        cax, cay = r - cap, abs(y) - height
        along = ((k1x - r) * k2x + (k1y - y) * k2y) / max(k2x * k2x + k2y * k2y, 1e-9)
        along = min(max(along, 0.0), 1.0)
        cbx, cby = r - k1x + k2x * along, y - k1y + k2y * along
        sign = -1.0 if (cbx < 0.0 and cay < 0.0) else 1.0
        return sign * np.sqrt(min(cax * cax + cay * cay, cbx * cbx + cby * cby)) - d
    if shape == TORUS:  # ring radius a, tube radius b, tube stretched along the axis by c
        q = np.sqrt(x * x + z * z) - a
        return (np.sqrt(q * q + (y / c) ** 2) - b) * min(c, 1.0)
    if shape == CAPSULE:  # half distance a of two spheres, radius b of the lower, c of the upper
        r = np.sqrt(x * x + z * z)
        lean = (b - c) / (2.0 * a)
        slope = np.sqrt(max(1.0 - lean * lean, 0.0))
        up = y + a
        k = -lean * r + slope * up
        if k < 0.0:
            return np.sqrt(r * r + up * up) - b
        if k > slope * 2.0 * a:
            return np.sqrt(r * r + (up - 2.0 * a) ** 2) - c
        return r * slope + up * lean - b
    if shape == PRISM:  # gable roof: half base a, half height b, half depth c
        length = np.sqrt(4.0 * b * b + a * a)
        side = (2.0 * b * abs(x) + a * (y - b)) / length
        return max(side, max(-y - b, abs(z) - c))
    # POLYGON_CONE: corners a, bottom apothem b, top apothem c, half height d
    sector = 2.0 * np.pi / a
    angle = np.arctan2(z, x)
    angle = angle - sector * np.floor(angle / sector + 0.5)
    reach = np.sqrt(x * x + z * z) * np.cos(angle)
    lean = (b - c) / (2.0 * d)
    side = (reach - (b + c) * 0.5 + y * lean) / np.sqrt(1.0 + lean * lean)
    return max(side, abs(y) - d)


@numba.njit(fastmath=True, cache=True)
def to_local(row: np.ndarray, x: float, y: float, z: float) -> tuple[float, float, float]:
    """A scene point in the primitive's own axes."""
    dx, dy, dz = x - row[POSITION], y - row[POSITION + 1], z - row[POSITION + 2]
    return (
        row[ROTATION] * dx + row[ROTATION + 1] * dy + row[ROTATION + 2] * dz,
        row[ROTATION + 3] * dx + row[ROTATION + 4] * dy + row[ROTATION + 5] * dz,
        row[ROTATION + 6] * dx + row[ROTATION + 7] * dy + row[ROTATION + 8] * dz,
    )


@numba.njit(fastmath=True, cache=True)
def distance(rows: np.ndarray, active: np.ndarray, count: int, x: float, y: float, z: float) -> tuple[float, int]:
    """Signed distance to the object made of `rows[active[:count]]`, and the row that decides it."""
    best, owner = 1e9, -1
    for i in range(count):
        index = active[i]
        row = rows[index]
        lx, ly, lz = to_local(row, x, y, z)
        value = local_distance(row, lx, ly, lz)
        if row[OPERATION] == UNION:
            if value < best:
                best, owner = value, index
        elif -value > best:
            best, owner = -value, index
    return best, owner


@numba.njit(fastmath=True, cache=True)
def albedo(row: np.ndarray, x: float, y: float, z: float, out: np.ndarray) -> None:
    """Base colour of the primitive's surface at a scene point, written to out[3]."""
    pattern = int(row[PATTERN])
    lx, ly, lz = to_local(row, x, y, z)
    u, v, w = lx / row[PERIOD], ly / row[PERIOD], lz / row[PERIOD]
    mix = 0.0
    if pattern == STRIPES:  # rings round the axis
        mix = 1.0 if v - np.floor(v) < 0.5 else 0.0
    elif pattern == BANDS:  # along the axis: sectors where the shape is round, planks where it is flat
        if row[SHAPE] == BOX:
            mix = 1.0 if u - np.floor(u) < 0.5 else 0.0
        else:
            turn = np.arctan2(lz, lx) / (2.0 * np.pi) * 8.0
            mix = 1.0 if turn - np.floor(turn) < 0.5 else 0.0
    elif pattern == DOTS:  # balls on a body-centred lattice, cut by the surface
        best = 9.0
        for shift in range(2):
            offset = 0.5 * shift
            du = u + offset - np.floor(u + offset + 0.5)
            dv = v + offset - np.floor(v + offset + 0.5)
            dw = w + offset - np.floor(w + offset + 0.5)
            best = min(best, du * du + dv * dv + dw * dw)
        mix = 1.0 if best < 0.1 else 0.0
    elif pattern == CHECKER:
        parity = int(np.floor(u + 0.31)) + int(np.floor(v + 0.31)) + int(np.floor(w + 0.31))
        mix = 1.0 if parity % 2 != 0 else 0.0
    elif pattern == WOOD:  # grain along the axis, bent a little
        bend = 0.35 * np.sin(2.1 * v) + 0.2 * np.sin(4.7 * v + 1.3)
        grain = np.sin(6.3 * (np.sqrt(u * u * 1.7 + w * w) + bend) + 1.5 * np.sin(3.0 * u))
        mix = 0.5 + 0.5 * grain
    elif pattern == BRICKS:
        course = np.floor(v * 2.0)
        along = (u + w) + 0.5 * (course - 2.0 * np.floor(course * 0.5))
        joint = min(v * 2.0 - course, (along - np.floor(along)) * 2.0)
        mix = 1.0 if joint < 0.18 else 0.0
    elif pattern == GRADIENT:
        mix = min(max(0.5 - v * 0.25, 0.0), 1.0)
    for k in range(3):
        out[k] = row[COLOR + k] * (1.0 - mix) + row[SECOND_COLOR + k] * mix

"""Numba kernel between world and image plane: projection of Gaussians, eight side by side.

3D Gaussian Splatting (arXiv 2308.04079) section 4, EWA splatting's local affine approximation; the numbers
(dilation, clamp of the Jacobian, opacity-aware extent) are gsplat's classic mode.

Records: one row of floats for each Gaussian and view, zeros where it is not visible:
    0 mean x   1 mean y   2, 3, 4 conic xx, xy, yy   5 opacity   6 depth   7 rx   8 ry   9 sigma at the edge
rx, ry: half sides in pixels of the box in which alpha reaches 1/255.
"""

from __future__ import annotations

import numpy as np

from backend.render.gaussian_numba_bins import EDGE, TILE, list_drawn
from backend.render.gaussian_numba_vectors import (
    LANES,
    bits,
    load,
    maximum,
    minimum,
    round_down,
    round_up,
    splat,
    square_root,
    store,
    take,
    where,
)
from backend.render.parallel import inlined, kernel

RECORD = 10  # floats in a record
_ONE = np.float32(1.0)
_HALF = np.float32(0.5)
_ZERO = np.float32(0.0)
INPUTS = 10  # planes of eight: mean, quaternion, scale
_FOUND = RECORD + 4  # planes of a record and of its box of tiles


@inlined
def gather(means, quats, scales, begin, end, out):
    """Gaussians [begin, end), eight at most, side by side: planes of eight floats. Zeros where there are fewer."""
    if end - begin < LANES:
        out[:] = _ZERO
    for n in range(begin, end):
        for i in range(3):
            out[i * LANES + n - begin] = means[n, i]
            out[(7 + i) * LANES + n - begin] = scales[n, i]
        for i in range(4):
            out[(3 + i) * LANES + n - begin] = quats[n, i]


@inlined
def rotations(given, out):
    """Planes of the nine numbers of the matrices of quaternions of any length (planes 3 to 6 of `given`)."""
    w, x, y, z = load(given, 3 * LANES), load(given, 4 * LANES), load(given, 5 * LANES), load(given, 6 * LANES)
    one = splat(_ONE)
    twice = splat(np.float32(2.0)) / (w * w + x * x + y * y + z * z)
    store(out, 0 * LANES, one - twice * (y * y + z * z))
    store(out, 1 * LANES, twice * (x * y - w * z))
    store(out, 2 * LANES, twice * (x * z + w * y))
    store(out, 3 * LANES, twice * (x * y + w * z))
    store(out, 4 * LANES, one - twice * (x * x + z * z))
    store(out, 5 * LANES, twice * (y * z - w * x))
    store(out, 6 * LANES, twice * (x * z - w * y))
    store(out, 7 * LANES, twice * (y * z + w * x))
    store(out, 8 * LANES, one - twice * (x * x + y * y))


@inlined
def camera_axes(view, rotation, given, out):
    """Planes of view rotation @ rotation @ diag(scale): its columns are the Gaussian's axes in camera space."""
    for i in range(3):
        v0, v1, v2 = splat(view[i, 0]), splat(view[i, 1]), splat(view[i, 2])
        for k in range(3):
            turned = v0 * load(rotation, k * LANES) + v1 * load(rotation, (3 + k) * LANES)
            turned = turned + v2 * load(rotation, (6 + k) * LANES)
            store(out, (3 * i + k) * LANES, turned * load(given, (7 + k) * LANES))


@inlined
def along(view, i, given):
    """Coordinate i of the means in camera space."""
    x, y, z = load(given, 0), load(given, LANES), load(given, 2 * LANES)
    return splat(view[i, 0]) * x + splat(view[i, 1]) * y + splat(view[i, 2]) * z + splat(view[i, 3])


@inlined
def tangent_limits(center, focal, size):
    """Between which x / z is held: 1.3 half fields of view about the image's middle, from the principal point."""
    margin = np.float32(0.3) * _HALF * size / focal
    return -center / focal - margin, (size - center) / focal + margin


@inlined
def _tiles(low, high, size, out, at):
    """Tiles [first, last) of an axis of `size` pixels whose pixel centres lie in [low, high]."""
    zero, half, side = splat(_ZERO), splat(_HALF), splat(np.float32(TILE))
    # The first pixel whose centre is >= low, and the one after the last whose centre is <= high.
    first = round_up(maximum(low, zero) - half)
    last = round_down(minimum(high, splat(size)) + half)
    start = round_down(maximum(first, zero) / side)
    store(out, at, start)
    store(out, at + LANES, where(last > first, round_up(minimum(last, splat(size)) / side), start))


@kernel
def project_chunks(
    queue,
    chunk,
    bounds,
    means,
    quats,
    scales,
    opacities,
    edges,
    view,
    intrinsics,
    width,
    height,
    near,
    far,
    eps2d,
    radius_clip,
    records,
    boxes,
    listed,
    found,
):
    """`_project` and `list_drawn` the chunks of `chunk` Gaussians that this thread takes from the queue."""
    number = take(queue)
    while number < found.shape[0]:
        first, last = number * chunk, min((number + 1) * chunk, means.shape[0])
        _project(
            means, quats, scales, opacities, edges, view, intrinsics, width, height, near, far, eps2d, radius_clip,
            first, last, records, boxes,
        )  # fmt: skip
        list_drawn(records, boxes, first, last, bounds, listed, found[number])
        number = take(queue)


@kernel
def whole_radii(records, first, last, out):
    """out int32 [N, 2] = the records' rx and ry rounded up, of the Gaussians [first, last)."""
    for n in range(first, last):
        out[n, 0] = np.int32(np.ceil(records[n, 7]))
        out[n, 1] = np.int32(np.ceil(records[n, 8]))


@inlined
def _project(
    means, quats, scales, opacities, edges, view, intrinsics, width, height, near, far, eps2d, radius_clip, first, last,
    records, boxes,
):  # fmt: skip
    """Fill records [first:last] and boxes [first:last] for one view.

    edges [N]: log(255 opacity). view [3, 4], intrinsics (fx, fy, cx, cy), near, far, eps2d, radius_clip: float32.
    boxes int16 [N, 4]: of the tiles with a pixel centre in the record's box the first row, the row after the last, and
    the same of columns; empty where nothing is to be drawn.
    """
    fx, fy, cx, cy = intrinsics[0], intrinsics[1], intrinsics[2], intrinsics[3]
    sizes = np.float32(width), np.float32(height)
    given = np.zeros(INPUTS * LANES, np.float32)
    rotation = np.empty(9 * LANES, np.float32)
    axes = np.empty(9 * LANES, np.float32)
    opacity_edge = np.zeros(2 * LANES, np.float32)
    found = np.zeros(_FOUND * LANES, np.float32)
    least_x, most_x = tangent_limits(cx, fx, sizes[0])
    least_y, most_y = tangent_limits(cy, fy, sizes[1])
    zero, one, eps, two = splat(_ZERO), splat(_ONE), splat(eps2d), splat(np.float32(2.0))
    margin = splat(np.float32(EDGE))
    for begin in range(first, last, LANES):
        end = min(begin + LANES, last)
        gather(means, quats, scales, begin, end, given)
        if end - begin < LANES:
            opacity_edge[:] = _ZERO
        for n in range(begin, end):
            opacity_edge[n - begin] = opacities[n]
            opacity_edge[LANES + n - begin] = edges[n]
        opacity, edge = load(opacity_edge, 0), load(opacity_edge, LANES)
        z = along(view, 2, given)
        # Written so that NaN fails each test.
        visible = (z >= splat(near)) & (splat(far) >= z) & (z > zero) & (opacity >= splat(np.float32(1.0 / 255.0)))
        seen = bits(visible)
        if seen != 0:
            inverse = one / z
            slope_x, slope_y = along(view, 0, given) * inverse, along(view, 1, given) * inverse
            rotations(given, rotation)
            camera_axes(view, rotation, given, axes)
            tx = minimum(splat(most_x), maximum(splat(least_x), slope_x))
            ty = minimum(splat(most_y), maximum(splat(least_y), slope_y))
            # u, v: rows of the Jacobian times the axes.
            over_x, over_y = splat(fx) * inverse, splat(fy) * inverse
            u0 = over_x * (load(axes, 0) - tx * load(axes, 6 * LANES))
            u1 = over_x * (load(axes, 1 * LANES) - tx * load(axes, 7 * LANES))
            u2 = over_x * (load(axes, 2 * LANES) - tx * load(axes, 8 * LANES))
            v0 = over_y * (load(axes, 3 * LANES) - ty * load(axes, 6 * LANES))
            v1 = over_y * (load(axes, 4 * LANES) - ty * load(axes, 7 * LANES))
            v2 = over_y * (load(axes, 5 * LANES) - ty * load(axes, 8 * LANES))
            cxx, cxy, cyy = u0 * u0 + u1 * u1 + u2 * u2, u0 * v0 + u1 * v1 + u2 * v2, v0 * v0 + v1 * v1 + v2 * v2
            # The determinant from the rows' cross product: of thin Gaussians cxx cyy - cxy cxy would leave nothing.
            m0, m1, m2 = u0 * v1 - u1 * v0, u1 * v2 - u2 * v1, u2 * v0 - u0 * v2
            det = m0 * m0 + m1 * m1 + m2 * m2 + eps * (cxx + cyy) + eps * eps
            cxx, cyy = cxx + eps, cyy + eps
            mx, my = splat(fx) * slope_x + splat(cx), splat(fy) * slope_y + splat(cy)
            rx, ry = square_root(two * edge * cxx), square_root(two * edge * cyy)
            # What float32 and the tile grid cannot hold is kept out of the kernels after this one.
            huge = splat(np.float32(1e8))
            visible = visible & (det > zero) & (splat(np.float32(1e30)) > det) & (huge > rx) & (huge > ry)
            visible = visible & (huge > mx) & (mx > zero - huge) & (huge > my) & (my > zero - huge)
            visible = visible & (round_up(maximum(rx, ry)) > splat(radius_clip))
            visible = visible & (mx + rx > zero) & (splat(sizes[0]) > mx - rx)
            visible = visible & (my + ry > zero) & (splat(sizes[1]) > my - ry)
            seen = bits(visible)
            share = one / det
            store(found, 0 * LANES, mx)
            store(found, 1 * LANES, my)
            store(found, 2 * LANES, cyy * share)
            store(found, 3 * LANES, zero - cxy * share)
            store(found, 4 * LANES, cxx * share)
            store(found, 5 * LANES, opacity)
            store(found, 6 * LANES, z)
            store(found, 7 * LANES, rx)
            store(found, 8 * LANES, ry)
            store(found, 9 * LANES, edge)
            _tiles(my - ry - margin, my + ry + margin, sizes[1], found, 10 * LANES)
            _tiles(mx - rx - margin, mx + rx + margin, sizes[0], found, 12 * LANES)
        for n in range(begin, end):
            lane = n - begin
            if (seen >> lane) & 1:
                for i in range(RECORD):
                    records[n, i] = found[i * LANES + lane]
                for i in range(4):
                    boxes[n, i] = np.int16(found[(RECORD + i) * LANES + lane])
                if boxes[n, 3] <= boxes[n, 2]:
                    boxes[n, 1] = boxes[n, 0]
            else:
                for i in range(RECORD):
                    records[n, i] = _ZERO
                for i in range(4):
                    boxes[n, i] = 0

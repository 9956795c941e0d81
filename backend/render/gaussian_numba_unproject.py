"""Numba kernel that takes gradients from the image plane back to Gaussians: the backward pass of projection.

Gradients of records are sums over the pixels of s = d loss / d sigma, where alpha = opacity exp(-sigma), with (dx, dy)
the pixel as seen from the mean:
    0 s   1 s dx   2 s dy   3 s dx dx   4 s dx dy   5 s dy dy   6... channels: colours, and the depth if asked for
"""

from __future__ import annotations

import numpy as np

from backend.render.gaussian_numba_project import INPUTS, along, camera_axes, gather, rotations, tangent_limits
from backend.render.gaussian_numba_vectors import (
    LANES,
    load,
    maximum,
    minimum,
    splat,
    square_root,
    store,
    where,
)
from backend.render.parallel import inlined, kernel

GRADIENT = 6  # floats in a record's gradient before the channels
_ONE = np.float32(1.0)
_TWO = np.float32(2.0)
_ZERO = np.float32(0.0)
_MEAN, _SCALE, _OPACITY, _ROTATION, _SUMS = 0, 3, 6, 7, 16  # planes of the sums over views
_ROW = 11  # planes of a view's numbers: conic 3, opacity, six of the gradient, depth's


@kernel
def project_backward(
    means,
    quats,
    scales,
    views,
    intrinsics,
    width,
    height,
    with_depth,
    records,
    gradients,
    first,
    last,
    v_means,
    v_quats,
    v_scales,
    v_opacities,
    v_colors,
):
    """Add the gradients of means, quats, scales, opacities and colours [first:last] over all views.

    views [C, 3, 4], intrinsics [C, 4] float32; records [C, N, RECORD]; gradients [C, N, GRADIENT + D (+ 1)];
    v_colors [C or 1, N, D].
    """
    given = np.zeros(INPUTS * LANES, np.float32)
    rotation = np.empty(9 * LANES, np.float32)
    axes = np.empty(9 * LANES, np.float32)
    row = np.empty(_ROW * LANES, np.float32)
    sums = np.empty(_SUMS * LANES, np.float32)
    quaternion = np.empty(4 * LANES, np.float32)
    depth_at = gradients.shape[2] - 1
    for begin in range(first, last, LANES):
        end = min(begin + LANES, last)
        ever = np.int64(0)
        for c in range(views.shape[0]):
            touched = np.int64(0)
            colors_at = min(c, v_colors.shape[0] - 1)
            for n in range(begin, end):
                lane = n - begin
                for i in range(v_colors.shape[2]):
                    v_colors[colors_at, n, i] += gradients[c, n, GRADIENT + i]
                moved = with_depth and gradients[c, n, depth_at] != _ZERO
                for i in range(GRADIENT):
                    moved |= gradients[c, n, i] != _ZERO
                if moved and records[c, n, 7] > _ZERO:  # else: hidden behind others, or not in the picture
                    touched |= np.int64(1) << lane
            if touched == 0:
                continue
            if ever == 0:
                gather(means, quats, scales, begin, end, given)
                rotations(given, rotation)
                sums[:] = _ZERO
            ever |= touched
            row[:] = _ZERO
            for n in range(begin, end):
                lane = n - begin
                if (touched >> lane) & 1:
                    for i in range(4):
                        row[i * LANES + lane] = records[c, n, 2 + i]
                    for i in range(GRADIENT):
                        row[(4 + i) * LANES + lane] = gradients[c, n, i]
                    if with_depth:
                        row[10 * LANES + lane] = gradients[c, n, depth_at]
            camera_axes(views[c], rotation, given, axes)
            _one_view(views[c], intrinsics[c], np.float32(width), np.float32(height), given, rotation, axes, row, sums)
        if ever == 0:
            continue
        _rotation_backward(given, sums, quaternion)
        for n in range(begin, end):
            lane = n - begin
            if (ever >> lane) & 1:
                for i in range(3):
                    v_means[n, i] += sums[(_MEAN + i) * LANES + lane]
                    v_scales[n, i] += sums[(_SCALE + i) * LANES + lane]
                for i in range(4):
                    v_quats[n, i] += quaternion[i * LANES + lane]
                v_opacities[n] += sums[_OPACITY * LANES + lane]


@inlined
def _add(sums, plane, mask, value):
    store(sums, plane * LANES, load(sums, plane * LANES) + where(mask, value, splat(_ZERO)))


@inlined
def _one_view(view, intrinsics, width, height, given, rotation, axes, row, sums):
    """Add eight Gaussians' gradients from one view to `sums`. Untouched Gaussians have zeros for their opacity."""
    fx, fy, cx, cy = intrinsics[0], intrinsics[1], intrinsics[2], intrinsics[3]
    zero = splat(_ZERO)
    opacity = load(row, 3 * LANES)
    touched = opacity > zero
    inverse = splat(_ONE) / along(view, 2, given)
    slope_x, slope_y = along(view, 0, given) * inverse, along(view, 1, given) * inverse
    least_x, most_x = tangent_limits(cx, fx, width)
    least_y, most_y = tangent_limits(cy, fy, height)
    tx = minimum(splat(most_x), maximum(splat(least_x), slope_x))
    ty = minimum(splat(most_y), maximum(splat(least_y), slope_y))
    over_x, over_y = splat(fx) * inverse, splat(fy) * inverse
    # Covariance's gradient: -conic @ G @ conic, where G is half the sum of s (dx, dy) (dx, dy)^T. Twice that, as the
    # covariance is rows @ rows^T and the rows' gradient 2 V rows.
    qa, qb, qd = load(row, 0), load(row, LANES), load(row, 2 * LANES)
    ga, gb, gd = load(row, 7 * LANES), load(row, 8 * LANES), load(row, 9 * LANES)
    left, right = qa * ga + qb * gb, qa * gb + qb * gd
    va = zero - (left * qa + right * qb)
    vb = zero - (left * qb + right * qd)
    vd = zero - ((qb * ga + qd * gb) * qb + (qb * gb + qd * gd) * qd)
    v_tx, v_ty, v_z = zero, zero, load(row, 10 * LANES)
    for k in range(3):
        a0, a1, a2 = load(axes, k * LANES), load(axes, (3 + k) * LANES), load(axes, (6 + k) * LANES)
        # u, v: rows of the Jacobian times the axes; both carry the factor 1 / z.
        u, v = over_x * (a0 - tx * a2), over_y * (a1 - ty * a2)
        v_u, v_v = va * u + vb * v, vb * u + vd * v
        v_z = v_z - (u * v_u + v * v_v) * inverse
        v0, v1 = over_x * v_u, over_y * v_v
        v2 = zero - tx * v0 - ty * v1
        v_tx = v_tx - a2 * v0
        v_ty = v_ty - a2 * v1
        # axes = view @ rotation @ diag(scale)
        scale = load(given, (7 + k) * LANES)
        v_scale = zero
        for j in range(3):
            back = splat(view[0, j]) * v0 + splat(view[1, j]) * v1 + splat(view[2, j]) * v2
            v_scale = v_scale + load(rotation, (3 * j + k) * LANES) * back
            _add(sums, _ROTATION + 3 * j + k, touched, back * scale)
        _add(sums, _SCALE + k, touched, v_scale)
    # d sigma / d mean = -conic @ (dx, dy)
    sx, sy = load(row, 5 * LANES), load(row, 6 * LANES)
    v_x = zero - over_x * (qa * sx + qb * sy)
    v_y = zero - over_y * (qb * sx + qd * sy)
    v_z = v_z - v_x * slope_x - v_y * slope_y
    # Where a tangent is clamped it does not move.
    v_tx = where((slope_x >= splat(least_x)) & (splat(most_x) >= slope_x), v_tx, zero) * inverse
    v_ty = where((slope_y >= splat(least_y)) & (splat(most_y) >= slope_y), v_ty, zero) * inverse
    v_z = v_z - v_tx * slope_x - v_ty * slope_y
    v_x, v_y = v_x + v_tx, v_y + v_ty
    for j in range(3):
        _add(sums, _MEAN + j, touched, splat(view[0, j]) * v_x + splat(view[1, j]) * v_y + splat(view[2, j]) * v_z)
    _add(sums, _OPACITY, touched, (zero - load(row, 4 * LANES)) / opacity)


@inlined
def _rotation_backward(given, sums, out):
    """Planes of the gradients of quaternions of any length, given those of their matrices."""
    w, x, y, z = load(given, 3 * LANES), load(given, 4 * LANES), load(given, 5 * LANES), load(given, 6 * LANES)
    inverse = splat(_ONE) / square_root(w * w + x * x + y * y + z * z)
    w, x, y, z = w * inverse, x * inverse, y * inverse, z * inverse
    at = _ROTATION * LANES
    m00, m01, m02 = load(sums, at), load(sums, at + LANES), load(sums, at + 2 * LANES)
    m10, m11, m12 = load(sums, at + 3 * LANES), load(sums, at + 4 * LANES), load(sums, at + 5 * LANES)
    m20, m21, m22 = load(sums, at + 6 * LANES), load(sums, at + 7 * LANES), load(sums, at + 8 * LANES)
    two = splat(_TWO)
    vw = two * (x * (m21 - m12) + y * (m02 - m20) + z * (m10 - m01))
    vx = two * (w * (m21 - m12) + y * (m01 + m10) + z * (m02 + m20) - two * x * (m11 + m22))
    vy = two * (w * (m02 - m20) + x * (m01 + m10) + z * (m12 + m21) - two * y * (m00 + m22))
    vz = two * (w * (m10 - m01) + x * (m02 + m20) + y * (m12 + m21) - two * z * (m00 + m11))
    back = vw * w + vx * x + vy * y + vz * z  # the length does not matter, so neither does a step along it
    store(out, 0 * LANES, (vw - back * w) * inverse)
    store(out, 1 * LANES, (vx - back * x) * inverse)
    store(out, 2 * LANES, (vy - back * y) * inverse)
    store(out, 3 * LANES, (vz - back * z) * inverse)

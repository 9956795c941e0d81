"""Numba kernels between world and image plane: projection of Gaussians, and its backward pass.

3D Gaussian Splatting (arXiv 2308.04079) section 4, EWA splatting's local affine approximation; the numbers
(dilation, clamp of the Jacobian, opacity-aware extent) are gsplat's classic mode.

Records: one row of floats for each Gaussian and view, `rx` = 0 where it is not visible:
    0 mean x   1 mean y   2, 3, 4 conic xx, xy, yy   5 opacity   6 depth   7 rx   8 ry   9 sigma at the edge
rx, ry: half sides in pixels of the box in which alpha reaches 1/255. Gradients of records have the layout
    0 mean x   1 mean y   2, 3, 4 conic   5 opacity   6 depth   7... colours
Arithmetic is float64 (it costs nothing in scalar code and spares thin Gaussians their cancellation), storage float32.
"""

from __future__ import annotations

import math

import numpy as np

from backend.render.parallel import inlined, kernel

RECORD = 10  # floats in a record
GRADIENT = 7  # floats in a record's gradient before the colours


@inlined
def _rotation(quat, out):
    """Write the matrix of a wxyz quaternion of any length to out [3, 3]; give back 1 / its length."""
    w, x, y, z = np.float64(quat[0]), np.float64(quat[1]), np.float64(quat[2]), np.float64(quat[3])
    inverse_length = 1.0 / math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * inverse_length, x * inverse_length, y * inverse_length, z * inverse_length
    out[0, 0] = 1.0 - 2.0 * (y * y + z * z)
    out[0, 1] = 2.0 * (x * y - w * z)
    out[0, 2] = 2.0 * (x * z + w * y)
    out[1, 0] = 2.0 * (x * y + w * z)
    out[1, 1] = 1.0 - 2.0 * (x * x + z * z)
    out[1, 2] = 2.0 * (y * z - w * x)
    out[2, 0] = 2.0 * (x * z - w * y)
    out[2, 1] = 2.0 * (y * z + w * x)
    out[2, 2] = 1.0 - 2.0 * (x * x + y * y)
    return inverse_length


@inlined
def _camera_axes(view, rotation, scale, out):
    """out [3, 3] = view rotation @ rotation @ diag(scale): columns are the Gaussian's axes in camera space."""
    for i in range(3):
        for j in range(3):
            out[i, j] = (
                view[i, 0] * rotation[0, j] + view[i, 1] * rotation[1, j] + view[i, 2] * rotation[2, j]
            ) * scale[j]


@inlined
def _clamp_tangent(tangent, center, focal, size):
    """x / z held within 1.3 half fields of view about the image's middle, as seen from the principal point."""
    margin = 0.3 * 0.5 * size / focal
    return min((size - center) / focal + margin, max(-center / focal - margin, tangent))


@kernel
def project(
    means,
    quats,
    scales,
    opacities,
    view,
    intrinsics,
    width,
    height,
    near,
    far,
    eps2d,
    radius_clip,
    first,
    last,
    records,
):
    """Fill records[first:last] for one view. view [3, 4] and intrinsics (fx, fy, cx, cy) are float64."""
    fx, fy, cx, cy = intrinsics[0], intrinsics[1], intrinsics[2], intrinsics[3]
    rotation = np.empty((3, 3))
    axes = np.empty((3, 3))
    for n in range(first, last):
        for k in range(RECORD):
            records[n, k] = 0.0
        px, py, pz = np.float64(means[n, 0]), np.float64(means[n, 1]), np.float64(means[n, 2])
        opacity = np.float64(opacities[n])
        z = view[2, 0] * px + view[2, 1] * py + view[2, 2] * pz + view[2, 3]
        # Written so that NaN fails each test.
        if not (z >= near and z <= far and z > 0.0 and opacity >= 1.0 / 255.0):
            continue
        x = view[0, 0] * px + view[0, 1] * py + view[0, 2] * pz + view[0, 3]
        y = view[1, 0] * px + view[1, 1] * py + view[1, 2] * pz + view[1, 3]
        _rotation(quats[n], rotation)
        _camera_axes(view, rotation, scales[n], axes)
        tx = _clamp_tangent(x / z, cx, fx, width)
        ty = _clamp_tangent(y / z, cy, fy, height)
        cxx, cxy, cyy = 0.0, 0.0, 0.0
        for k in range(3):
            u = fx / z * (axes[0, k] - tx * axes[2, k])
            v = fy / z * (axes[1, k] - ty * axes[2, k])
            cxx += u * u
            cxy += u * v
            cyy += v * v
        cxx += eps2d
        cyy += eps2d
        det = cxx * cyy - cxy * cxy
        edge = math.log(opacity * 255.0)
        mx, my = fx * x / z + cx, fy * y / z + cy
        rx, ry = math.sqrt(2.0 * edge * cxx), math.sqrt(2.0 * edge * cyy)
        # The last four keep what float32 and the tile grid cannot hold out of the kernels after this one.
        if not (det > 0.0 and rx < 1e8 and ry < 1e8 and abs(mx) < 1e9 and abs(my) < 1e9 and det < 1e30):
            continue
        if math.ceil(rx) <= radius_clip and math.ceil(ry) <= radius_clip:
            continue
        if mx + rx <= 0.0 or mx - rx >= width or my + ry <= 0.0 or my - ry >= height:
            continue
        records[n, 0] = mx
        records[n, 1] = my
        records[n, 2] = cyy / det
        records[n, 3] = -cxy / det
        records[n, 4] = cxx / det
        records[n, 5] = opacity
        records[n, 6] = z
        records[n, 7] = rx
        records[n, 8] = ry
        records[n, 9] = edge


@kernel
def project_backward(
    means, quats, scales, views, intrinsics, width, height, records, gradients, first, last, v_means, v_quats, v_scales
):
    """Add the gradients of means, quats and scales [first:last] over all views.

    views [C, 3, 4], intrinsics [C, 4] float64; records [C, N, RECORD]; gradients [C, N, GRADIENT + D].
    """
    rotation = np.empty((3, 3))
    axes = np.empty((3, 3))
    v_axes = np.empty((3, 3))
    v_rotation = np.empty((3, 3))
    u = np.empty(3)
    v = np.empty(3)
    for n in range(first, last):
        inverse_length = _rotation(quats[n], rotation)
        v_rotation[:] = 0.0
        seen = False
        for c in range(views.shape[0]):
            if records[c, n, 7] <= 0.0:
                continue
            touched = False
            for j in range(GRADIENT):
                touched |= gradients[c, n, j] != 0.0
            if not touched:  # hidden behind others
                continue
            seen = True
            view = views[c]
            fx, fy, cx, cy = intrinsics[c, 0], intrinsics[c, 1], intrinsics[c, 2], intrinsics[c, 3]
            px, py, pz = np.float64(means[n, 0]), np.float64(means[n, 1]), np.float64(means[n, 2])
            x = view[0, 0] * px + view[0, 1] * py + view[0, 2] * pz + view[0, 3]
            y = view[1, 0] * px + view[1, 1] * py + view[1, 2] * pz + view[1, 3]
            z = view[2, 0] * px + view[2, 1] * py + view[2, 2] * pz + view[2, 3]
            _camera_axes(view, rotation, scales[n], axes)
            slope_x, slope_y = x / z, y / z
            tx = _clamp_tangent(slope_x, cx, fx, width)
            ty = _clamp_tangent(slope_y, cy, fy, height)
            # Rows of J @ axes.
            for k in range(3):
                u[k] = fx / z * (axes[0, k] - tx * axes[2, k])
                v[k] = fy / z * (axes[1, k] - ty * axes[2, k])
            # Covariance's gradient: -conic @ G @ conic with G = [[a, b/2], [b/2, d]].
            qa, qb, qd = np.float64(records[c, n, 2]), np.float64(records[c, n, 3]), np.float64(records[c, n, 4])
            ga = np.float64(gradients[c, n, 2])
            gb = 0.5 * np.float64(gradients[c, n, 3])
            gd = np.float64(gradients[c, n, 4])
            va = -(qa * qa * ga + 2.0 * qa * qb * gb + qb * qb * gd)
            vb = -(qa * qb * ga + (qa * qd + qb * qb) * gb + qb * qd * gd)
            vd = -(qb * qb * ga + 2.0 * qb * qd * gb + qd * qd * gd)
            v_tx, v_ty, v_z = 0.0, 0.0, np.float64(gradients[c, n, 6])
            for k in range(3):
                # Covariance = rows @ rows^T, so the rows' gradient is 2 V rows; both rows carry the factor 1/z.
                v_u = 2.0 * (va * u[k] + vb * v[k])
                v_v = 2.0 * (vb * u[k] + vd * v[k])
                v_axes[0, k] = fx / z * v_u
                v_axes[1, k] = fy / z * v_v
                v_axes[2, k] = -fx / z * tx * v_u - fy / z * ty * v_v
                v_tx -= fx / z * axes[2, k] * v_u
                v_ty -= fy / z * axes[2, k] * v_v
                v_z -= (u[k] * v_u + v[k] * v_v) / z
            v_mx, v_my = np.float64(gradients[c, n, 0]), np.float64(gradients[c, n, 1])
            v_x = fx / z * v_mx
            v_y = fy / z * v_my
            v_z -= v_x * slope_x + v_y * slope_y
            if tx == slope_x:  # not clamped
                v_x += v_tx / z
                v_z -= v_tx * slope_x / z
            if ty == slope_y:
                v_y += v_ty / z
                v_z -= v_ty * slope_y / z
            for j in range(3):
                v_means[n, j] += view[0, j] * v_x + view[1, j] * v_y + view[2, j] * v_z
            # axes = view @ rotation @ diag(scale)
            for k in range(3):
                v_scale = 0.0
                for j in range(3):
                    back = view[0, j] * v_axes[0, k] + view[1, j] * v_axes[1, k] + view[2, j] * v_axes[2, k]
                    v_scale += rotation[j, k] * back
                    v_rotation[j, k] += back * scales[n, k]
                v_scales[n, k] += v_scale
        if seen:
            _rotation_backward(quats[n], inverse_length, v_rotation, v_quats[n])


@inlined
def _rotation_backward(quat, inverse_length, v, out):
    """out [4] += the gradient of a quaternion of any length, given v [3, 3] of its matrix."""
    w, x = quat[0] * inverse_length, quat[1] * inverse_length
    y, z = quat[2] * inverse_length, quat[3] * inverse_length
    vw = 2.0 * (x * (v[2, 1] - v[1, 2]) + y * (v[0, 2] - v[2, 0]) + z * (v[1, 0] - v[0, 1]))
    vx = 2.0 * (
        w * (v[2, 1] - v[1, 2]) + y * (v[0, 1] + v[1, 0]) + z * (v[0, 2] + v[2, 0]) - 2.0 * x * (v[1, 1] + v[2, 2])
    )
    vy = 2.0 * (
        w * (v[0, 2] - v[2, 0]) + x * (v[0, 1] + v[1, 0]) + z * (v[1, 2] + v[2, 1]) - 2.0 * y * (v[0, 0] + v[2, 2])
    )
    vz = 2.0 * (
        w * (v[1, 0] - v[0, 1]) + x * (v[0, 2] + v[2, 0]) + y * (v[1, 2] + v[2, 1]) - 2.0 * z * (v[0, 0] + v[1, 1])
    )
    along = vw * w + vx * x + vy * y + vz * z  # the length does not matter, so neither does a step along it
    out[0] += (vw - along * w) * inverse_length
    out[1] += (vx - along * x) * inverse_length
    out[2] += (vy - along * y) * inverse_length
    out[3] += (vz - along * z) * inverse_length

"""Kernels that draw a triangle mesh and carry gradients of its pictures back to the vertices; see `render.mesh`.

All of them work on one view and on one thread; float32, int32, contiguous. screen [n, 3] holds pixel x, pixel y and
inverse depth of the vertices (0: not in front of the camera).
"""

from __future__ import annotations

import math

import numpy as np

from backend.render.parallel import inlined, kernel

CRACK = np.float32(-1e-5)  # a pixel centre on an edge must not fall between both faces by a rounding error
GRAZING = np.float32(1e-3)  # cosine between ray and face below which a face's depth runs away


@kernel
def project_vertices(vertices, view, intrinsics, near, screen):
    """vertices [n, 3], view [3, 4] (OpenCV axes), intrinsics fx fy cx cy -> screen [n, 3]."""
    for i in range(vertices.shape[0]):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        depth = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z + view[2, 3]
        screen[i, 0] = screen[i, 1] = screen[i, 2] = 0.0
        if depth > near:
            inverse = 1.0 / depth
            across = view[0, 0] * x + view[0, 1] * y + view[0, 2] * z + view[0, 3]
            down = view[1, 0] * x + view[1, 1] * y + view[1, 2] * z + view[1, 3]
            screen[i, 0] = intrinsics[0] * across * inverse + intrinsics[2]
            screen[i, 1] = intrinsics[1] * down * inverse + intrinsics[3]
            screen[i, 2] = inverse


@kernel
def unit_normals(vertices, faces, normals):
    """normals [m, 4]: a face's unit normal, and one over the length of its edges' cross product (0: no area)."""
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        length = math.sqrt(x * x + y * y + z * z)
        inverse = 1.0 / length if length > 1e-20 else 0.0
        normals[f, 0], normals[f, 1], normals[f, 2], normals[f, 3] = x * inverse, y * inverse, z * inverse, inverse


@inlined
def _centres_between(low, high, size):
    """range(first, last) of the pixels 0 .. size - 1 whose centres lie from low to high, whatever these are."""
    first = min(max(math.ceil(low - 0.5), 0.0), float(size))
    last = max(min(math.floor(high - 0.5), size - 1.0), -1.0) + 1.0
    if not (first <= last):
        return 0, 0
    return int(first), int(last)


@kernel
def draw_faces(screen, faces, face_ids, inverse_depth, areas):
    """The nearest face at each pixel's centre, and its inverse depth (both [H, W], filled with -1 and 0 before);
    areas [m]: twice the faces' signed areas on the screen, 0 where a face is not drawn."""
    height, width = face_ids.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        qa, qb, qc = screen[a, 2], screen[b, 2], screen[c, 2]
        areas[f] = 0.0
        if qa <= 0 or qb <= 0 or qc <= 0:
            continue
        ax, ay = screen[a, 0], screen[a, 1]
        ux, uy = screen[b, 0] - ax, screen[b, 1] - ay
        vx, vy = screen[c, 0] - ax, screen[c, 1] - ay
        area = ux * vy - uy * vx
        if not (abs(area) > 0.0 and abs(area) < 1e30):
            continue
        areas[f] = area
        first_x, last_x = _centres_between(ax + min(ux, vx, 0.0), ax + max(ux, vx, 0.0), width)
        first_y, last_y = _centres_between(ay + min(uy, vy, 0.0), ay + max(uy, vy, 0.0), height)
        scale = np.float32(1.0) / area
        for row in range(first_y, last_y):
            dy = np.float32(row + 0.5) - ay
            for column in range(first_x, last_x):
                dx = np.float32(column + 0.5) - ax
                wb = (dx * vy - dy * vx) * scale
                wc = (dy * ux - dx * uy) * scale
                wa = np.float32(1.0) - wb - wc
                if wa < CRACK or wb < CRACK or wc < CRACK:
                    continue
                q = qa * wa + qb * wb + qc * wc
                if q > inverse_depth[row, column]:
                    inverse_depth[row, column] = q
                    face_ids[row, column] = f


@inlined
def _keep_farthest(face_ids, inner, outer, place, e, share, shares, crossed):
    """Note that edge e leaves `share` of the way from a covered to an uncovered pixel's centre covered."""
    if face_ids[inner] >= 0 and face_ids[outer] < 0 and (crossed[place] < 0 or share > shares[place]):
        shares[place] = share
        crossed[place] = e


@kernel
def find_outline(screen, edges, edge_faces, areas, face_ids, shares, crossed):
    """Where the outline passes between the centres of two neighbouring pixels, one of them covered and one not.

    edges [e, 2] run as in the first of their edge_faces [e, 2]; the second is -1 at a border. Writes, for the pair of a
    pixel and its right (0) or lower (1) neighbour, shares [2, H, W]: how much of the way from the covered centre to the
    other is covered, and crossed [2, H, W] (filled with -1 before): the edge that ends it.
    """
    height, width = face_ids.shape
    for e in range(edges.shape[0]):
        side = areas[edge_faces[e, 0]]
        other = areas[edge_faces[e, 1]] if edge_faces[e, 1] >= 0 else np.float32(0.0)
        if (side > 0 and other > 0) or (side < 0 and other < 0) or (side == 0 and other == 0):
            continue  # the surface goes on beyond the edge, or none of its faces is drawn
        if side == 0:
            side = -other
        u, v = edges[e, 0], edges[e, 1]
        dx, dy = screen[v, 0] - screen[u, 0], screen[v, 1] - screen[u, 1]
        if abs(dy) > 0:
            first, last = _centres_between(min(screen[u, 1], screen[v, 1]), max(screen[u, 1], screen[v, 1]), height)
            for row in range(first, last):
                x = screen[u, 0] + (np.float32(row + 0.5) - screen[u, 1]) * (dx / dy) - np.float32(0.5)
                if not (x >= 0 and x < width - 1):
                    continue
                # A crossing at a centre itself belongs to the pair of which that pixel is the covered one.
                if (side > 0) == (dy < 0):  # the face lies to the right
                    right = math.ceil(x)
                    if right > 0:
                        place = (0, row, right - 1)
                        share = np.float32(right) - x
                        _keep_farthest(face_ids, (row, right), (row, right - 1), place, e, share, shares, crossed)
                else:
                    left = int(x)
                    place = (0, row, left)
                    share = x - np.float32(left)
                    _keep_farthest(face_ids, (row, left), (row, left + 1), place, e, share, shares, crossed)
        if abs(dx) > 0:
            first, last = _centres_between(min(screen[u, 0], screen[v, 0]), max(screen[u, 0], screen[v, 0]), width)
            for column in range(first, last):
                y = screen[u, 1] + (np.float32(column + 0.5) - screen[u, 0]) * (dy / dx) - np.float32(0.5)
                if not (y >= 0 and y < height - 1):
                    continue
                if (side > 0) == (dx > 0):  # the face lies below
                    lower = math.ceil(y)
                    if lower > 0:
                        place = (1, lower - 1, column)
                        share = np.float32(lower) - y
                        _keep_farthest(face_ids, (lower, column), (lower - 1, column), place, e, share, shares, crossed)
                else:
                    upper = int(y)
                    place = (1, upper, column)
                    share = y - np.float32(upper)
                    _keep_farthest(face_ids, (upper, column), (upper + 1, column), place, e, share, shares, crossed)


@inlined
def _weight(screen, edges, e, axis):
    """How much a crossing counts: slanting edges cross rows and columns, and would else count twice."""
    dx = screen[edges[e, 1], 0] - screen[edges[e, 0], 0]
    dy = screen[edges[e, 1], 1] - screen[edges[e, 0], 1]
    return (dy * dy if axis == 0 else dx * dx) / (dx * dx + dy * dy)


@kernel
def shade(screen, edges, normals, face_ids, inverse_depth, shares, crossed, depth, picture, alpha):
    """depth [H, W], picture [H, W, 3] (normals) and alpha [H, W] (not yet limited to [0, 1])."""
    height, width = face_ids.shape
    for row in range(height):
        for column in range(width):
            face = face_ids[row, column]
            if face >= 0:
                depth[row, column] = 1.0 / inverse_depth[row, column]
                alpha[row, column] += 1.0
                for c in range(3):
                    picture[row, column, c] = normals[face, c]
            for axis in range(2):
                e = crossed[axis, row, column]
                if e < 0:
                    continue
                below, right = row + axis, column + 1 - axis
                change = (shares[axis, row, column] - np.float32(0.5)) * _weight(screen, edges, e, axis)
                # More than halfway: the uncovered pixel gains; less: the covered one loses.
                if (change > 0) == (face < 0):
                    alpha[row, column] += change
                else:
                    alpha[below, right] += change


@kernel
def gather_surface(screen, faces, normals, face_ids, inverse_depth, view, intrinsics, v_depth, v_picture, found):
    """Adds to found [m, 6]: what moves each corner along the face's normal (from depth), and the normal itself."""
    height, width = face_ids.shape
    for row in range(height):
        for column in range(width):
            f = face_ids[row, column]
            if f < 0:
                continue
            for c in range(3):
                found[f, 3 + c] += v_picture[row, column, c]
            wanted = v_depth[row, column]
            if wanted == 0:
                continue
            x = (np.float32(column + 0.5) - intrinsics[2]) / intrinsics[0]
            y = (np.float32(row + 0.5) - intrinsics[3]) / intrinsics[1]
            along = np.float32(0.0)
            for c in range(3):
                along += normals[f, c] * (view[0, c] * x + view[1, c] * y + view[2, c])
            along = min(along, -GRAZING) if along < 0 else max(along, GRAZING)
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            ax, ay = screen[a, 0], screen[a, 1]
            ux, uy, vx, vy = screen[b, 0] - ax, screen[b, 1] - ay, screen[c, 0] - ax, screen[c, 1] - ay
            dx, dy = np.float32(column + 0.5) - ax, np.float32(row + 0.5) - ay
            scale = np.float32(1.0) / (ux * vy - uy * vx)
            wb, wc = (dx * vy - dy * vx) * scale, (dy * ux - dx * uy) * scale
            # A ray meets the face where its depth is; moved corners carry the place along by their shares in space.
            change = wanted / (along * inverse_depth[row, column])
            found[f, 0] += change * (np.float32(1.0) - wb - wc) * screen[a, 2]
            found[f, 1] += change * wb * screen[b, 2]
            found[f, 2] += change * wc * screen[c, 2]


@kernel
def spread_surface(vertices, faces, normals, found, out):
    """Adds to out [n, 3] the vertices' gradients from what `gather_surface` found."""
    for f in range(faces.shape[0]):
        nx, ny, nz, inverse = normals[f, 0], normals[f, 1], normals[f, 2], normals[f, 3]
        gx, gy, gz = found[f, 3], found[f, 4], found[f, 5]
        along = gx * nx + gy * ny + gz * nz
        gx, gy, gz = (gx - along * nx) * inverse, (gy - along * ny) * inverse, (gz - along * nz) * inverse
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        bx, by, bz = vy * gz - vz * gy, vz * gx - vx * gz, vx * gy - vy * gx
        cx, cy, cz = gy * uz - gz * uy, gz * ux - gx * uz, gx * uy - gy * ux
        out[a, 0] += found[f, 0] * nx - bx - cx
        out[a, 1] += found[f, 0] * ny - by - cy
        out[a, 2] += found[f, 0] * nz - bz - cz
        out[b, 0] += found[f, 1] * nx + bx
        out[b, 1] += found[f, 1] * ny + by
        out[b, 2] += found[f, 1] * nz + bz
        out[c, 0] += found[f, 2] * nx + cx
        out[c, 1] += found[f, 2] * ny + cy
        out[c, 2] += found[f, 2] * nz + cz


@inlined
def _move(screen, vertex, gx, gy, view, intrinsics, out):
    """Adds to out the gradient of a vertex whose pixel's gradient is (gx, gy)."""
    inverse = screen[vertex, 2]
    x = gx * intrinsics[0] * inverse
    y = gy * intrinsics[1] * inverse
    z = -(gx * (screen[vertex, 0] - intrinsics[2]) + gy * (screen[vertex, 1] - intrinsics[3])) * inverse
    for c in range(3):
        out[vertex, c] += x * view[0, c] + y * view[1, c] + z * view[2, c]


@kernel
def outline_backward(screen, edges, face_ids, shares, crossed, view, intrinsics, v_alpha, out):
    """Adds to out [n, 3] the vertices' gradients from v_alpha [H, W]."""
    height, width = face_ids.shape
    for axis in range(2):
        for row in range(height):
            for column in range(width):
                e = crossed[axis, row, column]
                if e < 0:
                    continue
                below, right = row + axis, column + 1 - axis
                first_covered = face_ids[row, column] >= 0
                if (shares[axis, row, column] > 0.5) != first_covered:
                    wanted = v_alpha[row, column]
                else:
                    wanted = v_alpha[below, right]
                wanted *= _weight(screen, edges, e, axis)
                if not first_covered:  # the share grows as the crossing moves to the left or up
                    wanted = -wanted
                u, v = edges[e, 0], edges[e, 1]
                if axis == 0:
                    dx, dy = screen[v, 0] - screen[u, 0], screen[v, 1] - screen[u, 1]
                    part = (np.float32(row + 0.5) - screen[u, 1]) / dy
                    slope = dx / dy
                    near, far = wanted * (np.float32(1.0) - part), wanted * part
                    _move(screen, u, near, -slope * near, view, intrinsics, out)
                    _move(screen, v, far, -slope * far, view, intrinsics, out)
                else:
                    dx, dy = screen[v, 0] - screen[u, 0], screen[v, 1] - screen[u, 1]
                    part = (np.float32(column + 0.5) - screen[u, 0]) / dx
                    slope = dy / dx
                    near, far = wanted * (np.float32(1.0) - part), wanted * part
                    _move(screen, u, -slope * near, near, view, intrinsics, out)
                    _move(screen, v, -slope * far, far, view, intrinsics, out)

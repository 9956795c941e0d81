"""Edge collapse by quadric error (Garland and Heckbert 1997) that keeps a closed mesh closed, down to any count."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from backend.render.parallel import inlined, kernel

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LEAST_TURN = 0.2  # cosine between a face's normals before and after a collapse below which it has folded over
SHAPELY = 1e-6  # weight of the distance to the edge's middle, which decides where to go on flat ground
SHORT = 1e-6  # weight of the edge's length, which decides what goes first there
MOST_NEIGHBOURS = 512  # of one vertex


@inlined
def _push(
    costs: FloatArray, ends: IntArray, count: int, cost: float, a: int, b: int, stamp_a: int, stamp_b: int
) -> int:
    """Into the heap. Returns the new count; a full heap takes nothing more."""
    if count >= len(costs):
        return count
    place = count
    while place > 0:
        parent = (place - 1) // 2
        if costs[parent] <= cost:
            break
        costs[place] = costs[parent]
        ends[place] = ends[parent]
        place = parent
    costs[place] = cost
    ends[place, 0], ends[place, 1], ends[place, 2], ends[place, 3] = a, b, stamp_a, stamp_b
    return count + 1


@inlined
def _pop(costs: FloatArray, ends: IntArray, count: int) -> int:
    """Remove the least, which lies first. Returns the new count."""
    count -= 1
    cost = costs[count]
    a, b, c, d = ends[count, 0], ends[count, 1], ends[count, 2], ends[count, 3]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= count:
            break
        if child + 1 < count and costs[child + 1] < costs[child]:
            child += 1
        if costs[child] >= cost:
            break
        costs[place] = costs[child]
        ends[place] = ends[child]
        place = child
    costs[place] = cost
    ends[place, 0], ends[place, 1], ends[place, 2], ends[place, 3] = a, b, c, d
    return count


@inlined
def _error(q: FloatArray, x: float, y: float, z: float) -> float:
    """The quadric [10] at a point: squared distances to the faces' planes, weighted by their areas."""
    return (
        q[0] * x * x + q[4] * y * y + q[7] * z * z + q[9]
        + 2 * (q[1] * x * y + q[2] * x * z + q[5] * y * z + q[3] * x + q[6] * y + q[8] * z)
    )  # fmt: skip


@inlined
def _best(vertices: FloatArray, quadrics: FloatArray, a: int, b: int, q: FloatArray, place: FloatArray) -> float:
    """Where the vertex that replaces an edge should lie, and what that costs."""
    for i in range(10):
        q[i] = quadrics[a, i] + quadrics[b, i]
    mx = 0.5 * (vertices[a, 0] + vertices[b, 0])
    my = 0.5 * (vertices[a, 1] + vertices[b, 1])
    mz = 0.5 * (vertices[a, 2] + vertices[b, 2])
    # A little of the distance to the middle makes the equations solvable everywhere, and faces even on flat ground.
    little = SHAPELY * (q[0] + q[4] + q[7]) + 1e-30
    a00, a11, a22 = q[0] + little, q[4] + little, q[7] + little
    b0, b1, b2 = little * mx - q[3], little * my - q[6], little * mz - q[8]
    c00 = a11 * a22 - q[5] * q[5]
    c01 = q[2] * q[5] - q[1] * a22
    c02 = q[1] * q[5] - a11 * q[2]
    determinant = a00 * c00 + q[1] * c01 + q[2] * c02
    place[0], place[1], place[2] = mx, my, mz
    if determinant > 0:
        c11 = a00 * a22 - q[2] * q[2]
        c12 = q[1] * q[2] - a00 * q[5]
        c22 = a00 * a11 - q[1] * q[1]
        x = (c00 * b0 + c01 * b1 + c02 * b2) / determinant
        y = (c01 * b0 + c11 * b1 + c12 * b2) / determinant
        z = (c02 * b0 + c12 * b1 + c22 * b2) / determinant
        dx, dy, dz = x - mx, y - my, z - mz
        ex, ey, ez = vertices[a, 0] - mx, vertices[a, 1] - my, vertices[a, 2] - mz
        if dx * dx + dy * dy + dz * dz < 9 * (ex * ex + ey * ey + ez * ez):
            place[0], place[1], place[2] = x, y, z
    length = (vertices[a, 0] - mx) ** 2 + (vertices[a, 1] - my) ** 2 + (vertices[a, 2] - mz) ** 2
    # Among edges that cost nothing the shortest goes first.
    return max(_error(q, place[0], place[1], place[2]), 0.0) + SHORT * (q[0] + q[4] + q[7]) * length


@inlined
def _ring(faces: IntArray, next_corner: IntArray, first: int, of: int, ring: IntArray) -> int:
    """The neighbours of a vertex (each once, on a closed mesh), from its list of corners. -1: too many."""
    count = 0
    corner = first
    while True:
        if count >= MOST_NEIGHBOURS:
            return -1
        ring[count] = faces[corner // 3, (corner % 3 + 1) % 3]
        count += 1
        corner = next_corner[corner]
        if corner == first:
            return count


@inlined
def _folds(
    vertices: FloatArray, faces: IntArray, next_corner: IntArray, first: int, other: int, place: FloatArray, turn: float
) -> bool:
    """Whether a face about a vertex turns too far when the vertex moves; faces with `other` vanish and do not count."""
    corner = first
    while True:
        face, k = corner // 3, corner % 3
        b, c = faces[face, (k + 1) % 3], faces[face, (k + 2) % 3]
        if b != other and c != other:
            a = faces[face, k]
            ux, uy, uz = (
                vertices[c, 0] - vertices[b, 0],
                vertices[c, 1] - vertices[b, 1],
                vertices[c, 2] - vertices[b, 2],
            )
            vx, vy, vz = (
                vertices[a, 0] - vertices[b, 0],
                vertices[a, 1] - vertices[b, 1],
                vertices[a, 2] - vertices[b, 2],
            )
            wx, wy, wz = place[0] - vertices[b, 0], place[1] - vertices[b, 1], place[2] - vertices[b, 2]
            ox, oy, oz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
            nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
            old = ox * ox + oy * oy + oz * oz
            new = nx * nx + ny * ny + nz * nz
            along = ox * nx + oy * ny + oz * nz
            if along < turn * math.sqrt(old * new):
                return True
            # No slivers: twice the area against the square of the longest side.
            sides = max(ux * ux + uy * uy + uz * uz, wx * wx + wy * wy + wz * wz)
            if turn > 0 and new < 1e-4 * sides * sides and new < old:
                return True
        corner = next_corner[corner]
        if corner == first:
            return False


@kernel
def collapse(vertices: FloatArray, faces: IntArray, target: int) -> int:
    """Collapse edges of a closed mesh in place until `target` faces are left, or none can go without tearing it.

    vertices [n, 3]; faces [m, 3]: those that are gone get -1 as their vertices. Returns how many are left.
    """
    total, left = len(faces), len(faces)
    quadrics = np.zeros((len(vertices), 10))
    next_corner = np.empty(3 * total, np.int64)
    first = np.full(len(vertices), -1, np.int64)
    stamps = np.zeros(len(vertices), np.int64)
    for face in range(total):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        double = math.sqrt(nx * nx + ny * ny + nz * nz)
        weight = 0.0
        if double > 0:
            nx, ny, nz, weight = nx / double, ny / double, nz / double, 0.5 * double
        d = -(nx * vertices[a, 0] + ny * vertices[a, 1] + nz * vertices[a, 2])
        for k in range(3):
            v = faces[face, k]
            quadrics[v, 0] += weight * nx * nx
            quadrics[v, 1] += weight * nx * ny
            quadrics[v, 2] += weight * nx * nz
            quadrics[v, 3] += weight * nx * d
            quadrics[v, 4] += weight * ny * ny
            quadrics[v, 5] += weight * ny * nz
            quadrics[v, 6] += weight * ny * d
            quadrics[v, 7] += weight * nz * nz
            quadrics[v, 8] += weight * nz * d
            quadrics[v, 9] += weight * d * d
            # The corners of a vertex make a ring.
            corner = 3 * face + k
            if first[v] < 0:
                first[v] = corner
                next_corner[corner] = corner
            else:
                next_corner[corner] = next_corner[first[v]]
                next_corner[first[v]] = corner

    room = 12 * total + 64
    costs, ends = np.empty(room), np.empty((room, 4), np.int64)
    q, place = np.empty(10), np.empty(3)
    ring_a, ring_b = np.empty(MOST_NEIGHBOURS, np.int64), np.empty(MOST_NEIGHBOURS, np.int64)
    marks = np.full(len(vertices), -1, np.int64)
    for attempt in range(3):
        # First without folds; then, where the count asks for more than that allows, with.
        turn = LEAST_TURN if attempt == 0 else (0.0 if attempt == 1 else -2.0)
        count = 0
        for face in range(total):
            if faces[face, 0] < 0:
                continue
            for k in range(3):
                a, b = faces[face, k], faces[face, (k + 1) % 3]
                if a < b:
                    cost = _best(vertices, quadrics, a, b, q, place)
                    count = _push(costs, ends, count, cost, a, b, stamps[a], stamps[b])
        while left > target and left > 4 and count > 0:
            a, b = ends[0, 0], ends[0, 1]
            stale = stamps[a] != ends[0, 2] or stamps[b] != ends[0, 3]
            count = _pop(costs, ends, count)
            if stale:
                continue
            around_a = _ring(faces, next_corner, first[a], a, ring_a)
            around_b = _ring(faces, next_corner, first[b], b, ring_b)
            if around_a < 0 or around_b < 0:
                continue
            # The link condition: two neighbours in common, or the mesh would touch itself.
            for i in range(around_a):
                marks[ring_a[i]] = a
            common = 0
            for i in range(around_b):
                common += marks[ring_b[i]] == a
            for i in range(around_a):
                marks[ring_a[i]] = -1
            if common != 2 or around_a + around_b < 7:
                continue
            _best(vertices, quadrics, a, b, q, place)
            if _folds(vertices, faces, next_corner, first[a], b, place, turn):
                continue
            if _folds(vertices, faces, next_corner, first[b], a, place, turn):
                continue
            for i in range(3):
                vertices[a, i] = place[i]
            for i in range(10):
                quadrics[a, i] += quadrics[b, i]
            # One ring of corners from both.
            corner = first[b]
            while True:
                faces[corner // 3, corner % 3] = a
                corner = next_corner[corner]
                if corner == first[b]:
                    break
            swap = next_corner[first[a]]
            next_corner[first[a]] = next_corner[first[b]]
            next_corner[first[b]] = swap
            stamps[b] = -1
            # The two faces of the edge have the vertex twice: out of all three rings.
            gone = 0
            corner = first[a]
            for _ in range(around_a + around_b):
                face = corner // 3
                following = next_corner[corner]
                twice = (faces[face, 0] == a) + (faces[face, 1] == a) + (faces[face, 2] == a) > 1
                if twice:
                    gone += 1
                    ring_a[gone - 1] = face
                corner = following
            # Each of them was met twice.
            for i in range(gone):
                face = ring_a[i]
                if faces[face, 0] < 0:
                    continue
                for k in range(3):
                    v, corner = faces[face, k], 3 * face + k
                    before = corner
                    while next_corner[before] != corner:
                        before = next_corner[before]
                    next_corner[before] = next_corner[corner]
                    if first[v] == corner:
                        first[v] = before
                faces[face, 0] = faces[face, 1] = faces[face, 2] = -1
                left -= 1
            stamps[a] += 1
            around = _ring(faces, next_corner, first[a], a, ring_a)
            for i in range(around):
                b = ring_a[i]
                cost = _best(vertices, quadrics, a, b, q, place)
                count = _push(costs, ends, count, cost, a, b, stamps[a], stamps[b])
        if left <= target:
            break
    return left

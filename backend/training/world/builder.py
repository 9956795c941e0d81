"""How a kind of object is put together: primitives added part by part, then brought into the canonical frame."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from backend.datatypes import CANONICAL_SIZE
from backend.training.world import primitives as P
from backend.training.world.palette import Paint, mix_paint

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """A part that a caption can name. typical: usual colours; patterns: what it may wear; follows: how often it simply
    shares the main part's paint; loyalty: how often its own paint is a typical one."""

    typical: str = ""
    patterns: str = ""
    follows: float = 0.0
    loyalty: float = 0.75


@dataclass(frozen=True)
class Kind:
    """A kind of object: `main` is the part that a caption's own colour speaks of."""

    name: str
    build: Callable[[Builder], None]
    main: Part
    parts: dict[str, Part]


KINDS: dict[str, Kind] = {}


def kind(main: Part, **parts: Part) -> Callable[[Callable[[Builder], None]], Callable[[Builder], None]]:
    """Registers a builder function under its own name."""

    def register(build: Callable[[Builder], None]) -> Callable[[Builder], None]:
        KINDS[build.__name__] = Kind(build.__name__, build, main, parts)
        return build

    return register


@dataclass
class Builder:
    """Collects primitives. Heights run along y; the front is towards +z; units are free until `finish`."""

    rng: np.random.Generator
    kind: Kind
    rows: list[np.ndarray] = field(default_factory=list)
    paints: dict[str, Paint] = field(default_factory=dict)
    adjectives: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        main = self.kind.main
        self.paints["main"] = mix_paint(self.rng, main.typical, main.patterns, main.loyalty)
        for name, part in self.kind.parts.items():
            if self.rng.random() < part.follows:
                self.paints[name] = self.paints["main"]
            else:
                self.paints[name] = mix_paint(self.rng, part.typical, part.patterns, part.loyalty, 0.2)
        self._period = float(self.rng.uniform(0.26, 0.44))
        self._used: set[str] = set()

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def shape_word(self, word: str, holds: bool) -> None:
        """Notes an adjective that a caption may use."""
        if holds:
            self.adjectives.append(word)

    def _add(
        self, shape: int, part: str, size: tuple[float, ...], at: Vector, turn: Vector, bound: float, cut: bool
    ) -> None:
        self._used.add(part)
        paint = self.paints[part]
        row = np.zeros(P.COLUMNS, np.float32)
        row[P.SHAPE], row[P.OPERATION] = shape, P.SUBTRACT if cut else P.UNION
        row[P.SIZE : P.SIZE + len(size)] = size
        row[P.POSITION : P.POSITION + 3] = at
        row[P.ROTATION : P.ROTATION + 9] = _rotation(turn).T.reshape(-1)
        row[P.BOUND] = bound
        row[P.COLOR : P.COLOR + 3] = paint.rgb
        row[P.SECOND_COLOR : P.SECOND_COLOR + 3] = paint.second_rgb
        row[P.PATTERN] = paint.pattern
        self.rows.append(row)

    def ellipsoid(self, part: str, radii: Vector, at: Vector, turn: Vector = (0, 0, 0), cut: bool = False) -> None:
        self._add(P.ELLIPSOID, part, radii, at, turn, max(radii), cut)

    def ball(self, part: str, radius: float, at: Vector) -> None:
        self.ellipsoid(part, (radius, radius, radius), at)

    def box(
        self, part: str, half: Vector, at: Vector, turn: Vector = (0, 0, 0), rounding: float = 0.02, cut: bool = False
    ) -> None:
        rounding = min(rounding, 0.9 * min(half))
        self._add(P.BOX, part, (*half, rounding), at, turn, math.sqrt(sum(h * h for h in half)), cut)

    def cone(
        self, part: str, height: float, bottom: float, top: float, at: Vector, turn: Vector = (0, 0, 0),
        rounding: float = 0.015, cut: bool = False,
    ) -> None:  # fmt: skip
        """A cone, its frustum or a cylinder; `at` is the middle of its axis, height its whole height."""
        rounding = min(rounding, 0.45 * height, 0.9 * max(bottom, top))
        size = (height / 2, bottom, top, rounding)
        self._add(P.CONE, part, size, at, turn, math.hypot(height / 2, max(bottom, top)), cut)

    def torus(
        self, part: str, ring: float, tube: float, at: Vector, turn: Vector = (0, 0, 0), stretch: float = 1.0
    ) -> None:
        self._add(P.TORUS, part, (ring, tube, stretch), at, turn, math.hypot(ring + tube, tube * stretch), False)

    def capsule(
        self, part: str, length: float, lower: float, upper: float, at: Vector, turn: Vector = (0, 0, 0)
    ) -> None:
        """Two balls joined by a cone; length is the distance of their centres."""
        length = max(length, abs(lower - upper) * 1.05, 1e-3)
        self._add(P.CAPSULE, part, (length / 2, lower, upper), at, turn, length / 2 + max(lower, upper), False)

    def limb(self, part: str, start: Vector, end: Vector, radius: float, tip: float | None = None) -> None:
        """A capsule from one point to another."""
        a, b = np.array(start), np.array(end)
        axis = b - a
        length = float(np.linalg.norm(axis))
        pitch = math.degrees(math.acos(max(-1.0, min(1.0, axis[1] / max(length, 1e-6)))))
        yaw = math.degrees(math.atan2(axis[0], axis[2]))
        middle = tuple(float(c) for c in (a + b) / 2)
        self.capsule(part, length, radius, radius if tip is None else tip, middle, (pitch, yaw, 0.0))  # type: ignore[arg-type]

    def prism(
        self, part: str, half_base: float, height: float, half_depth: float, at: Vector, turn: Vector = (0, 0, 0)
    ) -> None:
        """A gable roof with its ridge along z; `at` is its middle."""
        bound = math.sqrt(half_base**2 + (height / 2) ** 2 + half_depth**2)
        self._add(P.PRISM, part, (half_base, height / 2, half_depth), at, turn, bound, False)

    def polygon_cone(
        self, part: str, corners: int, height: float, bottom: float, top: float, at: Vector, turn: Vector = (0, 0, 0)
    ) -> None:
        """A pyramid, its frustum or a polygonal column; bottom and top are apothems."""
        reach = max(bottom, top) / math.cos(math.pi / corners)
        size = (float(corners), bottom, top, height / 2)
        self._add(P.POLYGON_CONE, part, size, at, turn, math.hypot(height / 2, reach), False)

    def finish(self) -> np.ndarray:
        """Rows [P, COLUMNS] in the canonical frame: centred, longest side CANONICAL_SIZE."""
        low, high = np.full(3, np.inf), np.full(3, -np.inf)
        for row in self.rows:
            if row[P.OPERATION] == P.UNION:
                extent = _half_extent(row)
                low = np.minimum(low, row[P.POSITION : P.POSITION + 3] - extent)
                high = np.maximum(high, row[P.POSITION : P.POSITION + 3] + extent)
        scale = CANONICAL_SIZE / float((high - low).max())
        rows = np.stack(self.rows)
        rows[:, P.POSITION : P.POSITION + 3] = (rows[:, P.POSITION : P.POSITION + 3] - (low + high) / 2) * scale
        rows = scaled_sizes(rows, scale)
        rows[:, P.PERIOD] = self._period
        return rows

    @property
    def named_parts(self) -> dict[str, Paint]:
        """Paints of the parts that were really built, the main one left out."""
        return {name: self.paints[name] for name in self.kind.parts if name in self._used}


def scaled_sizes(rows: np.ndarray, scale: float) -> np.ndarray:
    """The rows with all lengths but their positions multiplied by `scale`; ratios and counts stay."""
    rows = rows.copy()
    rows[:, P.BOUND] *= scale
    rows[:, P.PERIOD] *= scale
    for row in rows:
        ratios = {P.TORUS: (2,), P.POLYGON_CONE: (0,)}.get(int(row[P.SHAPE]), ())
        for column in range(4):
            if column not in ratios:
                row[P.SIZE + column] *= scale
    return rows


def _rotation(turn: Vector) -> np.ndarray:
    """Local-to-world rotation: first about x (tips the axis towards +z), then y, then z; degrees."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _half_extent(row: np.ndarray) -> np.ndarray:
    """Half the sides of the axis-aligned box round a primitive (exact but for polygons and unequal cones)."""
    axes = row[P.ROTATION : P.ROTATION + 9].reshape(3, 3).T  # columns: local axes in the world
    a, b, c, d = row[P.SIZE : P.SIZE + 4]
    across = np.sqrt(np.maximum(1.0 - axes[:, 1] ** 2, 0.0))
    along = np.abs(axes[:, 1])
    shape = int(row[P.SHAPE])
    if shape == P.ELLIPSOID:
        return np.sqrt(((axes * np.array([a, b, c])) ** 2).sum(1))
    if shape in (P.BOX, P.PRISM):
        return (np.abs(axes) * np.array([a, b, c])).sum(1)
    if shape == P.CONE:
        return np.maximum(along * a + across * b, along * a + across * c)
    if shape == P.TORUS:
        return across * a + np.sqrt((across * b) ** 2 + (along * b * c) ** 2)
    if shape == P.CAPSULE:
        return along * a + max(b, c)
    return along * d + across * max(b, c) / math.cos(math.pi / a)

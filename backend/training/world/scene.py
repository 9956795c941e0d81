"""One object of the world: geometry, colours and a caption, all decided by a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.training.world import food, furniture, household, nature, outdoors  # noqa: F401  (they register their kinds)
from backend.training.world import primitives as P
from backend.training.world.builder import KINDS, Builder, scaled_sizes
from backend.training.world.palette import Paint

# What a caption may call a kind: the spellings that the vocabulary folds into one token.
_SPOKEN = {"icecream": ["ice cream"], "mug": ["mug", "cup"], "sofa": ["sofa", "couch"], "boat": ["boat", "sailboat"]}
# What the part is called whose colour is the object's own.
_MAIN_PART = {
    "mushroom": "cap", "tree": "leaves", "chair": "back", "table": "top", "lamp": "shade", "sword": "blade",
    "boat": "hull", "icecream": "scoop",
}  # fmt: skip


@dataclass(frozen=True)
class WorldObject:
    """rows: [P, COLUMNS] for the tracer, canonical frame; caption: one way of describing it."""

    kind: str
    rows: np.ndarray
    caption: str
    main: Paint

    def placed(self, turn_degrees: float = 0.0, scale: float = 1.0, shift: np.ndarray | None = None) -> np.ndarray:
        """The rows after turning about the vertical axis (towards +x from +z), scaling about the origin and moving."""
        angle = np.radians(turn_degrees)
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        rows = self.rows.copy()
        rows[:, P.POSITION : P.POSITION + 3] = rows[:, P.POSITION : P.POSITION + 3] @ turn.T * scale
        if shift is not None:
            rows[:, P.POSITION : P.POSITION + 3] += shift
        local = rows[:, P.ROTATION : P.ROTATION + 9].reshape(-1, 3, 3)
        rows[:, P.ROTATION : P.ROTATION + 9] = (local @ turn.T).reshape(-1, 9)
        return scaled_sizes(rows, scale)


def _colors(rng: np.random.Generator, paint: Paint) -> str:
    words = paint.name
    if paint.pattern_name == "wooden":
        return str(rng.choice(["wooden", "brown wooden", "brown wood"]))
    if paint.pattern_name == "plain":
        return words
    if paint.second_name and rng.random() < 0.6:
        words = f"{words} and {paint.second_name}"
    return f"{words} {paint.pattern_name}"


def _caption(rng: np.random.Generator, builder: Builder) -> str:
    kind = builder.kind.name
    words = ["a"]
    if builder.adjectives and rng.random() < 0.6:
        words.append(str(rng.choice(builder.adjectives)))
    main = builder.paints["main"]
    told, said = rng.random() < 0.88, []
    if told and kind in _MAIN_PART and rng.random() < 0.2:
        said.append(f"{_colors(rng, main)} {_MAIN_PART[kind]}")
    elif told:
        words.append(_colors(rng, main) if rng.random() < 0.9 else main.name)
    words.append(str(rng.choice(_SPOKEN.get(kind, [kind]))))
    named = [name for name, paint in builder.named_parts.items() if paint is not main]
    if named and rng.random() < 0.6:
        rng.shuffle(named)
        for name in named[: int(rng.integers(1, 3))]:
            paint = builder.paints[name]
            said.append(f"{_colors(rng, paint) if rng.random() < 0.6 else paint.name} {name}")
    if said:
        words.append("with " + " and ".join(said))
    return " ".join(words)


def sample_object(seed: int, index: int, kind: str | None = None) -> WorldObject:
    """The `index`-th object of the world `seed`; the same on every machine. `kind` overrides the draw of the kind."""
    rng = np.random.default_rng([seed, index])
    drawn = str(rng.choice(list(KINDS)))
    builder = Builder(rng, KINDS[kind or drawn])
    builder.kind.build(builder)
    rows = builder.finish()
    return WorldObject(builder.kind.name, rows, _caption(rng, builder), builder.paints["main"])

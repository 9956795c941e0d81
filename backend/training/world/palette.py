"""The world's colours and patterns, and how a part of an object is painted."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from backend.training.world.primitives import BANDS, BRICKS, CHECKER, DOTS, GRADIENT, PLAIN, STRIPES, WOOD

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (206, 34, 36), "orange": (240, 124, 24), "yellow": (248, 214, 46), "green": (48, 150, 58),
    "teal": (30, 168, 170), "blue": (38, 78, 204), "purple": (126, 54, 172), "pink": (244, 140, 184),
    "brown": (118, 70, 38), "beige": (224, 200, 160), "black": (34, 34, 38), "gray": (132, 134, 138),
    "white": (243, 243, 241), "gold": (210, 162, 52),
}  # fmt: skip
_MODIFIABLE = ("green", "blue", "purple", "brown", "gray", "teal", "red")
PATTERNS = {"plain": (PLAIN,), "striped": (STRIPES, BANDS), "spotted": (DOTS,), "checkered": (CHECKER,),
            "wooden": (WOOD,), "brick": (BRICKS,)}  # fmt: skip


@dataclass(frozen=True)
class Paint:
    """What covers a part: colour names as a caption would say them, and numbers as the tracer wants them."""

    name: str
    rgb: tuple[float, float, float]
    pattern_name: str = "plain"
    pattern: int = PLAIN
    second_name: str = ""
    second_rgb: tuple[float, float, float] = (0.0, 0.0, 0.0)


def _shade(rng: np.random.Generator, name: str, modifier: str = "") -> tuple[float, float, float]:
    """One of the many shades that go by a colour's name."""
    red, green, blue = (c / 255.0 for c in COLORS[name])
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    hue = (hue + rng.uniform(-0.012, 0.012)) % 1.0
    saturation = min(max(saturation * rng.uniform(0.9, 1.1), 0.0), 1.0)
    value = min(max(value * rng.uniform(0.88, 1.08), 0.0), 1.0)
    if modifier == "dark":
        value *= 0.58
    elif modifier == "light":
        saturation, value = saturation * 0.5, value + (1.0 - value) * 0.6
    return colorsys.hsv_to_rgb(hue, saturation, value)


def mix_paint(
    rng: np.random.Generator, typical: str, patterns: str, loyalty: float, pattern_share: float = 0.45
) -> Paint:
    """A random paint. typical: the colours this part often has; loyalty: how often it takes one of them;
    patterns: the pattern names it may wear, worn in `pattern_share` of the cases."""
    names = typical.split()
    name = str(rng.choice(names)) if names and rng.random() < loyalty else str(rng.choice(list(COLORS)))
    modifier = str(rng.choice(["dark", "light"])) if name in _MODIFIABLE and rng.random() < 0.12 else ""
    pattern_name = "plain"
    if patterns and rng.random() < pattern_share:
        pattern_name = str(rng.choice(patterns.split()))
    if pattern_name == "wooden":
        name, modifier = "brown", ""
        base = np.array(_shade(rng, "brown")) * rng.uniform(0.95, 1.35)
        return Paint("brown", tuple(base.clip(0, 1)), "wooden", WOOD, "", tuple((base * 0.72).clip(0, 1)))
    rgb = _shade(rng, name, modifier)
    pattern = int(rng.choice(PATTERNS[pattern_name]))
    spoken = f"{modifier} {name}".strip()
    if pattern_name == "plain":
        if rng.random() < 0.15:  # a silent gradient keeps networks from believing in flat colours
            return Paint(spoken, rgb, "plain", GRADIENT, "", tuple(np.array(rgb) * 0.7))
        return Paint(spoken, rgb)
    if pattern_name == "brick":
        return Paint(spoken, rgb, "brick", BRICKS, "", tuple(0.4 * np.array(rgb) + 0.5))
    others = [other for other in COLORS if _contrast(other, name) > 0.3]
    second = "white" if "white" in others and rng.random() < 0.4 else str(rng.choice(others))
    return Paint(spoken, rgb, pattern_name, pattern, second, _shade(rng, second))


def _contrast(one: str, other: str) -> float:
    return float(np.abs(np.array(COLORS[one]) - np.array(COLORS[other])).max() / 255.0)

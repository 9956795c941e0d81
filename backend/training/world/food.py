"""Things to eat."""

from __future__ import annotations

import math

from backend.training.world.builder import Builder, Part, kind


@kind(
    Part("pink brown white", "striped", loyalty=0.45),
    base=Part("beige brown gold", loyalty=0.95),
    sprinkle=Part("", "", loyalty=0.0),
)
def donut(b: Builder) -> None:
    ring, tube = b.between(0.52, 0.62), b.between(0.24, 0.33)
    b.torus("base", ring, tube, (0, 0, 0), stretch=0.95)
    b.torus("main", ring, tube * 0.98, (0, tube * b.between(0.12, 0.22), 0), stretch=0.95)
    if b.chance(0.5):
        for _ in range(16):
            angle, out = b.between(0, 2 * math.pi), b.between(-0.55, 0.55)
            radius = ring + tube * out
            height = tube * (0.2 + 0.93 * math.sqrt(1 - out * out))
            at = (math.cos(angle) * radius, height, math.sin(angle) * radius)
            b.capsule("sprinkle", 0.07, 0.03, 0.03, at, (90, b.between(0, 180), 0))
    b.shape_word("thin", tube < 0.255)
    b.shape_word("thick", tube > 0.31)


@kind(
    Part("pink white brown green yellow", "spotted", loyalty=0.6),
    cone=Part("gold beige brown", "checkered", loyalty=0.95),
)
def icecream(b: Builder) -> None:
    height, radius = b.between(0.9, 1.3), b.between(0.32, 0.42)
    b.cone("cone", height, 0.03, radius, (0, height / 2, 0), rounding=0.02)
    b.ball("main", radius * 1.12, (0, height + radius * 0.45, 0))
    scoops = int(b.rng.integers(1, 4))
    if scoops == 2:
        b.ball("main", radius * 0.98, (0, height + radius * 1.75, 0))
    elif scoops == 3:
        for side in (-1.0, 1.0):
            b.ball("main", radius * 0.75, (side * radius * 0.72, height + radius * 0.95, 0))
        b.ball("main", radius * 0.8, (0, height + radius * 1.6, 0))
    b.shape_word("tall", height > 1.2)


@kind(
    Part("white pink brown", "striped spotted", loyalty=0.5),
    icing=Part("white pink brown red"),
    flame=Part("yellow orange", loyalty=1.0),
    candle=Part("red blue yellow", loyalty=0.6),
    base=Part("white gray"),
)
def cake(b: Builder) -> None:
    radius, tiers = b.between(0.65, 0.8), int(b.rng.integers(1, 4))
    b.cone("base", 0.05, radius * 1.2, radius * 1.2, (0, 0, 0))
    y = 0.02
    for tier in range(tiers):
        width = radius * (1.0 - 0.28 * tier)
        height = b.between(0.32, 0.5) if tiers > 1 else b.between(0.45, 0.65)
        b.cone("main", height, width, width, (0, y + height / 2, 0), rounding=0.04)
        y += height
        b.torus("icing", width * 0.97, 0.065, (0, y - 0.02, 0))
    width = radius * (1.0 - 0.28 * (tiers - 1))
    candles = int(b.rng.choice([0, 1, 3, 4]))
    for number in range(candles):
        angle = 2 * math.pi * number / max(candles, 1)
        spread = 0.0 if candles == 1 else width * 0.5
        at = (math.cos(angle) * spread, y + 0.14, math.sin(angle) * spread)
        b.cone("candle", 0.3, 0.05, 0.05, at)
        b.ellipsoid("flame", (0.05, 0.09, 0.05), (at[0], y + 0.36, at[2]))
    b.shape_word("tall", tiers == 3)
    b.shape_word("short", tiers == 1)

"""Things that grow, and a snowman."""

from __future__ import annotations

import math

from backend.training.world.builder import Builder, Part, kind


@kind(Part("red brown orange beige purple", "spotted", loyalty=0.5), stem=Part("white beige"))
def mushroom(b: Builder) -> None:
    height, radius = b.between(0.55, 1.3), b.between(0.5, 0.85)
    thick = b.between(0.13, 0.26)
    b.cone("stem", height, thick * b.between(1.0, 1.6), thick, (0, height / 2, 0), rounding=0.05)
    dome = radius * b.between(0.55, 1.0)
    b.ellipsoid("main", (radius, dome, radius), (0, height, 0))
    b.box("main", (radius * 1.1, dome, radius * 1.1), (0, height - dome * 1.08, 0), rounding=0.0, cut=True)
    b.cone("stem", height, thick * b.between(1.0, 1.3), thick, (0, height / 2 + 0.05, 0), rounding=0.05)
    b.shape_word("tall", height > 1.05)
    b.shape_word("short", height < 0.75)
    b.shape_word("wide", radius > 0.76)


@kind(Part("green teal", "spotted striped", loyalty=0.6), stem=Part("brown"))
def tree(b: Builder) -> None:
    trunk = b.between(0.25, 0.6)
    b.cone("stem", trunk + 0.3, b.between(0.1, 0.16), 0.1, (0, trunk / 2, 0))
    if b.chance(0.65):
        tiers, radius = int(b.rng.integers(2, 5)), b.between(0.5, 0.75)
        rise = b.between(0.4, 0.6)
        for tier in range(tiers):
            width = radius * (1.0 - 0.72 * tier / tiers)
            b.cone("main", rise * 1.5, width, 0.03, (0, trunk + tier * rise * 0.85 + rise * 0.6, 0), rounding=0.03)
        b.shape_word("tall", tiers == 4)
        b.shape_word("wide", radius > 0.7)
    else:
        radius = b.between(0.5, 0.7)
        b.ellipsoid("main", (radius, radius * b.between(0.8, 1.2), radius), (0, trunk + radius * 0.8, 0))
        for turn in range(3):
            angle = math.radians(120 * turn + b.between(0, 60))
            b.ball(
                "main",
                radius * 0.6,
                (math.cos(angle) * radius * 0.6, trunk + radius * b.between(0.5, 1.1), math.sin(angle) * radius * 0.6),
            )


@kind(
    Part("green teal", "striped", loyalty=0.7),
    pot=Part("brown orange beige red", "striped"),
    flower=Part("pink red yellow"),
)
def cactus(b: Builder) -> None:
    body, radius = b.between(0.9, 1.5), b.between(0.2, 0.3)
    pot = b.between(0.3, 0.45)
    if b.chance(0.85):
        b.cone("pot", pot, radius * 1.3, radius * 1.75, (0, pot / 2, 0), rounding=0.03)
        b.cone("pot", 0.1, radius * 1.95, radius * 1.95, (0, pot, 0), rounding=0.02)
    b.capsule("main", body, radius, radius * 0.95, (0, pot + body / 2, 0))
    sides = [1.0, -1.0] if b.chance(0.8) else [b.rng.choice([1.0, -1.0])]
    for side in sides:
        start, reach = pot + body * b.between(0.3, 0.6), radius + b.between(0.2, 0.32)
        lift, thick = b.between(0.25, 0.5), radius * b.between(0.5, 0.65)
        b.limb("main", (0, start, 0), (side * reach, start + 0.05, 0), thick)
        b.limb("main", (side * reach, start + 0.05, 0), (side * reach, start + lift, 0), thick)
    if b.chance(0.3):
        b.ellipsoid("flower", (0.13, 0.08, 0.13), (0, pot + body + radius, 0))
    b.shape_word("tall", body > 1.3)
    b.shape_word("short", body < 1.05)
    b.shape_word("thin", radius < 0.22)


@kind(
    Part("white", "", loyalty=0.85),
    hat=Part("black red blue brown", "striped"),
    scarf=Part("red green blue yellow", "striped"),
    nose=Part("orange", loyalty=0.95),
    eye=Part("black", loyalty=1.0),
    arm=Part("brown", loyalty=1.0),
)
def snowman(b: Builder) -> None:
    low, mid, top = b.between(0.45, 0.6), b.between(0.33, 0.42), b.between(0.24, 0.31)
    y1 = low * 0.9
    y2 = y1 + (low + mid) * 0.82
    y3 = y2 + (mid + top) * 0.85
    b.ball("main", low, (0, y1, 0))
    b.ball("main", mid, (0, y2, 0))
    b.ball("main", top, (0, y3, 0))
    b.cone("nose", 0.28, 0.065, 0.012, (0, y3, top + 0.09), (90, 0, 0), rounding=0.01)
    for side in (-1.0, 1.0):
        b.ball("eye", 0.05, (side * 0.1, y3 + 0.09, top * 0.9))
        if b.chance(0.8):
            b.limb("arm", (side * mid * 0.8, y2, 0), (side * (mid + 0.38), y2 + b.between(0.0, 0.3), 0), 0.04)
    for button in range(2):
        b.ball("eye", 0.045, (0, y2 - 0.1 + 0.2 * button, mid * 0.97))
    if b.chance(0.85):
        b.cone("hat", 0.05, top * 1.3, top * 1.3, (0, y3 + top * 0.75, 0), rounding=0.02)
        tall = b.between(0.25, 0.45)
        b.cone("hat", tall, top * 0.85, top * 0.8, (0, y3 + top * 0.75 + tall / 2, 0), rounding=0.02)
    if b.chance(0.7):
        b.torus("scarf", top * 0.78, 0.09, (0, y3 - top * 0.82, 0))
        b.box("scarf", (0.07, 0.17, 0.035), (0.14, y3 - top - 0.16, mid * 0.9), (-8, 0, 0))
    b.shape_word("wide", low > 0.57)


@kind(Part("orange", "", loyalty=0.7), stem=Part("green brown"))
def pumpkin(b: Builder) -> None:
    ribs, flat = 8, b.between(0.62, 1.0)
    for rib in range(ribs):
        angle = 360.0 * rib / ribs
        offset = 0.36
        at = (math.sin(math.radians(angle)) * offset, 0.0, math.cos(math.radians(angle)) * offset)
        b.ellipsoid("main", (0.3, 0.62 * flat, 0.42), at, (0, angle, 0))
    top = 0.58 * flat
    b.limb("stem", (0, top - 0.1, 0), (b.between(-0.12, 0.12), top + b.between(0.12, 0.3), 0), 0.085, 0.06)
    b.shape_word("tall", flat > 0.93)
    b.shape_word("short", flat < 0.7)

"""Furniture."""

from __future__ import annotations

import math

from backend.training.world.builder import Builder, Part, kind


def _four_legs(
    b: Builder, half_width: float, half_depth: float, height: float, thick: float, splay: float = 0.0
) -> None:
    round_legs = b.chance(0.5)
    for x in (-1.0, 1.0):
        for z in (-1.0, 1.0):
            top = (x * (half_width - thick), height, z * (half_depth - thick))
            foot = (x * (half_width - thick + splay), thick if round_legs else 0.0, z * (half_depth - thick + splay))
            if round_legs or splay > 0:
                b.limb("leg", foot, top, thick)
            else:
                b.box("leg", (thick, height / 2, thick), (top[0], height / 2, top[2]))


@kind(
    Part("brown red blue green", "wooden striped", loyalty=0.3),
    leg=Part("brown black gray", "wooden", follows=0.5),
    seat=Part("", "striped checkered", follows=0.6),
)
def chair(b: Builder) -> None:
    half, height = b.between(0.38, 0.5), b.between(0.6, 0.85)
    back, thick = b.between(0.7, 1.05), b.between(0.05, 0.08)
    _four_legs(b, half, half, height, thick)
    b.box("seat", (half, 0.06, half), (0, height, 0), rounding=0.03)
    style = int(b.rng.integers(0, 3))
    lean = b.between(-8, 0)
    if style == 0:
        b.box("main", (half, back / 2, 0.055), (0, height + back / 2, -half + 0.05), (lean, 0, 0), rounding=0.03)
    else:
        for x in (-1.0, 1.0):
            b.box("main", (thick, back / 2, thick * 0.8), (x * (half - thick), height + back / 2, -half + 0.06))
        if style == 1:
            for slat in range(3):
                b.box("main", (half, 0.075, 0.04), (0, height + back * (0.35 + 0.28 * slat), -half + 0.06))
        else:
            b.box("main", (half, 0.09, 0.05), (0, height + back * 0.92, -half + 0.06))
            for bar in range(3):
                b.box("main", (0.045, back / 2, 0.03), ((bar - 1) * half * 0.5, height + back / 2, -half + 0.06))
    if b.chance(0.2):
        for x in (-1.0, 1.0):
            b.box("main", (0.05, 0.04, half), (x * half, height + 0.32, 0))
            b.box("main", (0.05, 0.17, 0.05), (x * half, height + 0.16, half - 0.06))
    b.shape_word("tall", back > 0.98)
    b.shape_word("short", back < 0.77)


@kind(
    Part("brown red green blue white", "wooden striped spotted", loyalty=0.3),
    leg=Part("brown black gray green", "wooden", follows=0.4),
)
def stool(b: Builder) -> None:
    radius, height = b.between(0.4, 0.55), b.between(0.55, 1.2)
    thick = b.between(0.1, 0.2)
    if b.chance(0.75):
        b.cone("main", thick, radius, radius, (0, height, 0), rounding=0.05)
    else:
        b.box("main", (radius, thick / 2, radius), (0, height, 0), rounding=0.05)
    legs = int(b.rng.choice([3, 4]))
    splay, leg = b.between(1.0, 1.2), b.between(0.05, 0.08)
    for number in range(legs):
        angle = 2 * math.pi * (number + 0.5) / legs
        x, z = math.cos(angle) * radius * 0.75, math.sin(angle) * radius * 0.75
        b.limb("leg", (x * splay, leg, z * splay), (x, height, z), leg)
    if b.chance(0.5):
        b.torus("leg", radius * 0.82 * splay**0.5, 0.035, (0, height * 0.35, 0))
    b.shape_word("tall", height > 1.05)
    b.shape_word("short", height < 0.68)


@kind(
    Part("brown white beige", "wooden checkered", loyalty=0.4),
    leg=Part("brown black gray white", "wooden", follows=0.4),
)
def table(b: Builder) -> None:
    width, depth, height = b.between(0.75, 1.0), b.between(0.5, 0.75), b.between(0.6, 0.95)
    slab = b.between(0.05, 0.09)
    if b.chance(0.3):
        b.cone("main", slab * 2, width * 0.85, width * 0.85, (0, height, 0), rounding=0.03)
        if b.chance(0.5):
            b.cone("leg", height, 0.11, 0.1, (0, height / 2, 0))
            b.cone("leg", 0.1, width * 0.5, width * 0.42, (0, 0.05, 0))
        else:
            _four_legs(b, width * 0.55, width * 0.55, height, 0.07, 0.05)
    else:
        b.box("main", (width, slab, depth), (0, height, 0), rounding=0.03)
        _four_legs(b, width - 0.05, depth - 0.05, height, b.between(0.06, 0.1))
    b.shape_word("tall", height > 0.88)
    b.shape_word("short", height < 0.67)


@kind(
    Part("yellow white red blue green", "striped spotted", loyalty=0.4),
    base=Part("black brown gray gold"),
    pole=Part("black brown gray gold", follows=0.05),
)
def lamp(b: Builder) -> None:
    height, shade = b.between(0.75, 1.4), b.between(0.45, 0.65)
    if b.chance(0.6):
        b.paints["pole"] = b.paints["base"]
    radius = b.between(0.3, 0.45)
    b.cone("base", 0.14, radius, radius * 0.75, (0, 0.07, 0), rounding=0.04)
    b.cone("pole", height, 0.055, 0.05, (0, height / 2, 0))
    top = b.between(0.25, 0.42)
    bottom = b.between(0.45, 0.6)
    b.cone("main", shade, bottom, top, (0, height + shade * 0.35, 0), rounding=0.02)
    b.cone("main", shade * 0.9, bottom * 0.9, top * 0.85, (0, height + shade * 0.35 - 0.09, 0), rounding=0.0, cut=True)
    b.cone("pole", height, 0.055, 0.05, (0, height / 2 + 0.1, 0))
    b.shape_word("tall", height > 1.25)
    b.shape_word("short", height < 0.9)


@kind(
    Part("red blue gray green beige purple", "striped checkered spotted", loyalty=0.4),
    leg=Part("brown black"),
    arm=Part("", follows=0.75),
    seat=Part("", follows=0.7),
)
def sofa(b: Builder) -> None:
    width, depth = b.between(0.75, 1.05), b.between(0.38, 0.46)
    seat, back = b.between(0.3, 0.4), b.between(0.35, 0.55)
    for x in (-1.0, 1.0):
        for z in (-1.0, 1.0):
            b.cone("leg", 0.18, 0.05, 0.06, (x * (width - 0.1), 0.06, z * (depth - 0.1)))
        arm = b.between(0.16, 0.2)
        b.box("arm", (0.13, (seat + arm) / 2, depth), (x * (width + 0.08), 0.1 + (seat + arm) / 2, 0), rounding=0.1)
    b.box("main", (width, seat / 2, depth), (0, 0.12 + seat / 2, 0), rounding=0.05)
    cushions = int(b.rng.integers(2, 4))
    for number in range(cushions):
        half = width / cushions
        x = -width + half * (2 * number + 1)
        b.box("seat", (half * 0.96, 0.09, depth * 0.85), (x, 0.14 + seat, depth * 0.12), rounding=0.07)
    b.box("main", (width, (seat + back) / 2, 0.14), (0, 0.12 + (seat + back) / 2, -depth + 0.08), rounding=0.1)
    b.shape_word("wide", width > 0.98)
    b.shape_word("tall", back > 0.5)

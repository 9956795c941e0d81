"""Vessels, tools and arms."""

from __future__ import annotations

from backend.training.world.builder import Builder, Part, kind


@kind(
    Part("white blue red green", "striped spotted checkered", loyalty=0.3),
    handle=Part("white black", follows=0.65),
    inside=Part("white brown black", follows=0.5),
)
def mug(b: Builder) -> None:
    radius, height = b.between(0.45, 0.6), b.between(0.75, 1.25)
    taper = b.between(0.85, 1.08)
    reach = height * b.between(0.26, 0.34)
    b.torus("handle", reach, 0.085, (radius * (1 + taper) / 2 + 0.02, height * 0.5, 0), (90, 0, 0))
    b.cone("main", height, radius * taper, radius, (0, height / 2, 0), rounding=0.04)
    wall = 0.09
    b.cone("inside", height, radius * taper - wall, radius - wall, (0, height / 2 + 0.12, 0), rounding=0.02, cut=True)
    b.shape_word("tall", height > 1.12)
    b.shape_word("short", height < 0.84)
    b.shape_word("wide", radius > 0.57)


@kind(
    Part("green brown blue", "striped spotted", loyalty=0.35),
    cap=Part("gold black brown red white"),
    label=Part("white yellow red beige", "striped"),
)
def bottle(b: Builder) -> None:
    radius, body = b.between(0.26, 0.42), b.between(0.8, 1.1)
    neck, width = b.between(0.25, 0.5), radius * b.between(0.3, 0.45)
    b.cone("main", body, radius, radius, (0, body / 2, 0), rounding=0.06)
    b.ellipsoid("main", (radius * 0.995, radius * b.between(0.7, 1.1), radius * 0.995), (0, body - 0.06, 0))
    b.cone("main", neck + 0.5, width * 1.1, width, (0, body + neck / 2, 0))
    b.cone("cap", 0.16, width * 1.35, width * 1.35, (0, body + neck + 0.25, 0), rounding=0.03)
    if b.chance(0.5):
        b.cone("label", body * 0.42, radius * 1.025, radius * 1.025, (0, body * 0.45, 0), rounding=0.0)
    b.shape_word("thin", radius < 0.29)
    b.shape_word("wide", radius > 0.38)
    b.shape_word("tall", body + neck > 1.45)


@kind(Part("brown", "wooden striped", loyalty=0.5), hoop=Part("gray black gold"))
def barrel(b: Builder) -> None:
    radius, height = b.between(0.42, 0.6), b.between(0.95, 1.4)
    bulge = b.between(1.12, 1.3)
    b.cone("main", height / 2, radius, radius * bulge, (0, height * 0.25, 0), rounding=0.01)
    b.cone("main", height / 2, radius * bulge, radius, (0, height * 0.75, 0), rounding=0.01)
    for level in (0.12, 0.36, 0.64, 0.88):
        width = radius * (1 + (bulge - 1) * (1 - abs(level - 0.5) * 2))
        b.cone("hoop", 0.09, width * 1.035, width * 1.035, (0, height * level, 0))
    b.cone("hoop", 0.06, radius * 0.86, radius * 0.86, (0, height, 0), cut=True)
    b.cone("main", 0.05, radius * 0.86, radius * 0.86, (0, height - 0.06, 0))
    b.shape_word("tall", height > 1.3)
    b.shape_word("short", height < 1.02)
    b.shape_word("wide", radius > 0.57)


@kind(
    Part("white red yellow blue", "striped", loyalty=0.4),
    flame=Part("orange yellow", loyalty=1.0),
    holder=Part("gold brown gray black"),
)
def candle(b: Builder) -> None:
    height, radius = b.between(0.7, 1.4), b.between(0.16, 0.3)
    if b.chance(0.7):
        dish = radius + b.between(0.2, 0.35)
        b.cone("holder", 0.09, dish * 0.8, dish, (0, 0, 0), rounding=0.03)
        if b.chance(0.6):
            b.torus("holder", 0.15, 0.045, (dish + 0.1, 0.06, 0), (90, 0, 0))
    b.cone("main", height, radius, radius, (0, height / 2, 0), rounding=0.03)
    b.cone("flame", 0.16, 0.02, 0.02, (0, height + 0.04, 0), rounding=0.0)
    flame = b.between(0.14, 0.2)
    b.ellipsoid("flame", (flame * 0.55, flame, flame * 0.55), (0, height + flame + 0.05, 0))
    b.capsule("flame", flame, flame * 0.5, 0.02, (0, height + flame * 1.6, 0))
    b.shape_word("tall", height > 1.25)
    b.shape_word("short", height < 0.85)
    b.shape_word("thin", radius < 0.19)
    b.shape_word("wide", radius > 0.27)


@kind(
    Part("gray blue gold", "", loyalty=0.5),
    handle=Part("brown black red", "wooden striped"),
    guard=Part("gold gray black brown"),
)
def sword(b: Builder) -> None:
    blade, width = b.between(1.2, 1.7), b.between(0.11, 0.19)
    grip = b.between(0.35, 0.5)
    b.limb("handle", (0, 0.05, 0), (0, grip, 0), 0.075)
    b.ball("guard", b.between(0.1, 0.14), (0, 0, 0))
    b.box("guard", (b.between(0.3, 0.48), 0.065, 0.085), (0, grip, 0), rounding=0.04)
    b.box("main", (width, blade / 2, 0.045), (0, grip + blade / 2, 0), rounding=0.02)
    b.prism("main", width, width * 1.6, 0.045, (0, grip + blade + width * 0.79, 0))
    b.shape_word("thin", width < 0.125)
    b.shape_word("wide", width > 0.175)
    b.shape_word("tall", blade > 1.6)


@kind(Part("gray black red blue", "", loyalty=0.5), handle=Part("brown beige black", "wooden striped"))
def hammer(b: Builder) -> None:
    handle, thick = b.between(1.1, 1.6), b.between(0.07, 0.1)
    b.limb("handle", (0, 0, 0), (0, handle, 0), thick, thick * 0.85)
    half, radius = b.between(0.32, 0.5), b.between(0.14, 0.24)
    style = int(b.rng.integers(0, 3))
    if style == 0:
        b.cone("main", half * 2, radius, radius, (0, handle, 0), (0, 0, 90), rounding=0.03)
    elif style == 1:
        b.box("main", (half, radius, radius), (0, handle, 0), rounding=0.04)
    else:
        b.cone("main", half, radius * 1.05, radius, (half * 0.5, handle, 0), (0, 0, -90), rounding=0.03)
        b.box("main", (half * 0.55, radius * 0.75, radius * 0.7), (-half * 0.4, handle, 0), rounding=0.03)
        b.limb("main", (-half * 0.6, handle + 0.02, 0), (-half * 1.35, handle - 0.16, 0), radius * 0.5, radius * 0.25)
    b.shape_word("tall", handle > 1.5)
    b.shape_word("short", handle < 1.2)
    b.shape_word("wide", half > 0.46)

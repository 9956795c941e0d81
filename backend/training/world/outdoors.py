"""Houses, vehicles and a robot."""

from __future__ import annotations

import math

from backend.training.world.builder import Builder, Part, kind


@kind(
    Part("white beige yellow red blue", "brick wooden", loyalty=0.4),
    roof=Part("red brown gray black blue", "striped brick"),
    door=Part("brown red green blue"),
    window=Part("teal blue white", loyalty=0.9),
    chimney=Part("red brown gray", "brick"),
)
def house(b: Builder) -> None:
    width, depth, height = b.between(0.55, 0.75), b.between(0.5, 0.7), b.between(0.65, 1.05)
    roof = b.between(0.45, 0.75)
    b.box("main", (width, height / 2, depth), (0, height / 2, 0), rounding=0.01)
    if b.chance(0.75):
        b.prism(
            "roof",
            width * 1.22,
            roof,
            depth * 1.12,
            (0, height + roof / 2 - 0.03, 0),
            (0, 90.0 if b.chance(0.3) else 0.0, 0),
        )
    else:
        b.polygon_cone("roof", 4, roof, max(width, depth) * 1.15, 0.02, (0, height + roof / 2 - 0.02, 0))
    b.box("door", (0.13, 0.24, 0.03), (0, 0.24, depth + 0.01), rounding=0.01)
    for x in (-1.0, 1.0):
        b.box("window", (0.11, 0.12, 0.02), (x * width * 0.6, height * 0.58, depth + 0.01), rounding=0.01)
        b.box("window", (0.02, 0.12, 0.13), (x * (width + 0.01), height * 0.55, 0), rounding=0.01)
    b.box("window", (0.13, 0.12, 0.02), (0, height * 0.58, -depth - 0.01), rounding=0.01)
    if b.chance(0.6):
        b.box("chimney", (0.1, 0.3, 0.1), (width * 0.55, height + roof * 0.55, -depth * 0.3), rounding=0.01)
    b.shape_word("tall", height > 0.97)
    b.shape_word("wide", width > 0.72)


@kind(
    Part("white red gray blue", "striped checkered", loyalty=0.4),
    fin=Part("red blue black orange"),
    nose=Part("red blue black gray", follows=0.2),
    window=Part("teal blue black", loyalty=0.9),
    flame=Part("orange yellow", loyalty=1.0),
)
def rocket(b: Builder) -> None:
    radius, body = b.between(0.27, 0.38), b.between(0.9, 1.3)
    nose = b.between(0.4, 0.65)
    b.cone("main", body, radius * b.between(0.85, 1.0), radius, (0, body / 2, 0), rounding=0.02)
    b.ellipsoid("nose", (radius, nose, radius), (0, body - 0.03, 0))
    b.box("nose", (radius * 1.2, nose, radius * 1.2), (0, body - 0.03 - nose, 0), rounding=0.0, cut=True)
    b.cone("main", body - 0.02, radius * 0.98, radius * 0.99, (0, body / 2, 0), rounding=0.02)
    fins = int(b.rng.choice([3, 4]))
    spread, tall = b.between(0.22, 0.36), b.between(0.22, 0.34)
    for number in range(fins):
        angle = 360.0 * number / fins
        s, c = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        reach = radius + spread * 0.4
        b.box("fin", (0.045, tall, spread * 0.75), (s * reach, 0.16, c * reach), (28, angle, 0), rounding=0.03)
    b.ellipsoid("window", (0.13, 0.13, 0.06), (0, body * 0.68, radius * 0.95))
    if b.chance(0.5):
        b.capsule("flame", 0.3, 0.04, radius * 0.55, (0, -0.2, 0))
    b.shape_word("tall", body > 1.2)
    b.shape_word("wide", radius > 0.35)


@kind(
    Part("red blue yellow green", "striped", loyalty=0.45),
    roof=Part("white black", follows=0.6),
    window=Part("teal blue black", loyalty=0.9),
    wheel=Part("black", loyalty=0.95),
)
def car(b: Builder) -> None:
    length, width, height = b.between(0.85, 1.0), b.between(0.4, 0.48), b.between(0.16, 0.24)
    floor, wheel = 0.2, b.between(0.18, 0.24)
    b.box("main", (width, height, length), (0, floor + height, 0), rounding=0.08)
    cabin, back = b.between(0.18, 0.28), b.between(-0.25, 0.0)
    half = b.between(0.42, 0.55)
    y = floor + 2 * height + cabin * 0.8
    b.box("roof", (width * 0.86, cabin, half), (0, y, back), rounding=0.09)
    b.box("window", (width * 0.9, cabin * 0.55, half * 0.75), (0, y, back), rounding=0.05)
    b.box("window", (width * 0.68, cabin * 0.55, half * 1.03), (0, y, back), rounding=0.05)
    for x in (-1.0, 1.0):
        for z in (-1.0, 1.0):
            b.cone("wheel", 0.16, wheel, wheel, (x * width, wheel, z * length * 0.62), (0, 0, 90), rounding=0.04)
        b.ball("window", 0.07, (x * width * 0.65, floor + height * 1.1, length))
    b.shape_word("tall", cabin > 0.26)
    b.shape_word("short", cabin < 0.2)


@kind(
    Part("brown red blue white", "wooden striped", loyalty=0.45),
    sail=Part("white red yellow", "striped"),
    pole=Part("brown", loyalty=0.9),
)
def boat(b: Builder) -> None:
    length, width = b.between(0.75, 0.95), b.between(0.28, 0.38)
    depth = b.between(0.3, 0.42)
    b.ellipsoid("main", (width, depth, length), (0, 0, 0))
    b.box("main", (width * 1.1, depth, length * 1.1), (0, depth + 0.02, 0), rounding=0.0, cut=True)
    b.ellipsoid("main", (width * 0.8, depth * 0.75, length * 0.85), (0, 0.06, 0), cut=True)
    mast = b.between(1.1, 1.5)
    b.limb("pole", (0, -depth * 0.7, 0), (0, mast, 0), 0.04)
    reach = length * b.between(0.6, 0.85)
    b.prism("sail", reach / 2, mast * 0.8, 0.03, (0, mast * 0.55, -0.02), (0, 90, 0))
    b.shape_word("tall", mast > 1.4)
    b.shape_word("wide", width > 0.36)


@kind(
    Part("gray blue red yellow teal", "", loyalty=0.45),
    eye=Part("yellow red teal white black", loyalty=0.9),
    arm=Part("gray black", follows=0.5),
    leg=Part("gray black", follows=0.5),
    cap=Part("gray", follows=0.7),
)
def robot(b: Builder) -> None:
    width, body = b.between(0.34, 0.46), b.between(0.34, 0.46)
    leg = b.between(0.25, 0.45)
    y = leg + body
    b.box("main", (width, body, width * 0.7), (0, y, 0), rounding=0.06)
    head = b.between(0.26, 0.34)
    hy = y + body + head * 0.8 + 0.06
    b.cone("arm", 0.16, 0.1, 0.1, (0, y + body + 0.03, 0))
    b.box("cap", (head * 1.15, head * 0.8, head * 0.85), (0, hy, 0), rounding=0.06)
    for x in (-1.0, 1.0):
        b.ball("eye", 0.075, (x * head * 0.5, hy + 0.05, head * 0.83))
        b.box("leg", (0.11, leg / 2 + 0.03, 0.11), (x * width * 0.55, leg / 2, 0), rounding=0.03)
        b.box("leg", (0.14, 0.07, 0.2), (x * width * 0.55, 0.06, 0.06), rounding=0.03)
        drop = b.between(-0.6, 0.3)
        hand = (x * (width + 0.26), y + body * 0.6 + drop * 0.6 - 0.1, 0.08)
        b.limb("arm", (x * width, y + body * 0.65, 0), hand, 0.09)
        b.ball("arm", 0.12, hand)
    if b.chance(0.6):
        b.limb("arm", (0, hy + head * 0.7, 0), (0, hy + head * 0.8 + 0.25, 0), 0.03)
        b.ball("eye", 0.07, (0, hy + head * 0.8 + 0.28, 0))
    b.box("eye", (width * 0.5, body * 0.35, 0.03), (0, y + body * 0.1, width * 0.7), rounding=0.02)
    b.shape_word("tall", leg > 0.4)
    b.shape_word("short", leg < 0.29)
    b.shape_word("wide", width > 0.43)

"""Characters, birds, robots and snowmen, facing +Z."""

from __future__ import annotations

import numpy as np

from .builder import Builder, Point, euler_rotation
from .colour_patterns import ColourPattern, SolidColour

DARK, PALE = SolidColour((0.08, 0.07, 0.09)), SolidColour((0.92, 0.92, 0.9))
ORANGE = SolidColour((0.93, 0.56, 0.12))
SKINS = ((0.9, 0.74, 0.6), (0.78, 0.56, 0.4), (0.5, 0.33, 0.22))


def eyes(make: Builder, head: Point, radius: float, apart: float, up: float, out: float) -> None:
    """Two eyes, relative to the centre of a head: white with a dark pupil, or dark only."""
    x, y, z = head[0] + apart, head[1] + up, head[2] + out
    if make.chance(0.6):
        make.ellipsoid(radius, PALE, (x, y, z), mirror=True, role="decal")
        z, radius = z + radius * 0.5, radius * 0.6
    make.ellipsoid((radius, radius, radius * 1.6), DARK, (x, y, z), mirror=True, role="decal")


def character(make: Builder) -> None:
    """A person with a large head, clothes, hair or a hat, and sometimes a stick in a hand."""
    skin = SolidColour(make.choice((*SKINS, make.colours[4])))
    shirt, trousers = make.pattern(0, 0.5), make.pattern(make.choice((1, 3)), 0.5, plain=0.7)
    head, wide, torso = make.uniform(0.2, 0.3), make.uniform(0.13, 0.2), make.uniform(0.28, 0.4)
    thick, hip = make.uniform(0.055, 0.085), make.uniform(0.25, 0.45)
    shoulder = hip + torso
    chest = (0.0, hip + torso * 0.5, 0.0)
    make.ellipsoid((wide, torso * 0.62, wide * 0.75), shirt, chest)
    make.ellipsoid((wide * 0.95, 0.11, wide * 0.75), trousers, (0, hip + 0.04, 0), blend=0.05)
    stride = make.uniform(-0.08, 0.08) if make.chance(0.4) else 0.0
    shoes = make.solid_colour(3)
    for side in (-1, 1):
        x, z = side * wide * 0.6, side * stride
        hip_at = (side * wide * 0.5, hip, 0.0)
        make.capsule((x, 0.05, z), hip_at, (thick * 0.9, thick * 1.1), trousers, blend=0.03)
        make.ellipsoid((thick, 0.05, thick * 1.7), shoes, (x, 0.045, z + 0.04))
    _arms(make, (wide * 0.85, shoulder - 0.06), thick, shirt, skin)
    centre = (0.0, shoulder + head * 0.95, 0.0)
    make.ellipsoid((head, head * make.uniform(0.95, 1.15), head * 0.95), skin, centre, blend=0.02)
    eyes(make, centre, head * 0.2, head * 0.38, head * 0.12, head * 0.88)
    mouth = (0.0, centre[1] - head * 0.45, head * 0.85)
    make.ellipsoid(
        (head * 0.3, head * 0.08, head * 0.2), SolidColour((0.55, 0.2, 0.2)), mouth, role="decal"
    )
    _headdress(make, centre, head)
    if make.chance(0.3):  # a satchel on the back
        back = (0.0, hip + torso * 0.6, -wide * 0.75)
        make.box((wide * 0.75, torso * 0.35, 0.07), make.pattern(2, 0.3), back, 0.03)
    if make.chance(0.4):  # a belt
        make.box((0.4, 0.025, 0.4), make.solid_colour(3), (0, hip + 0.07, 0), role="decal")


def _arms(make: Builder, shoulder: tuple[float, float], thick: float, sleeve, skin) -> None:
    """Two arms with hands, mostly symmetric; sometimes a stick in one hand."""
    same, lift, long = make.chance(0.6), make.uniform(-65, 70), make.uniform(0.28, 0.4)
    for side in (1, -1):
        if side == -1 and not same:
            lift = make.uniform(-65, 75)
        across, up = np.cos(np.radians(lift)), np.sin(np.radians(lift))
        start = (side * shoulder[0], shoulder[1], 0.0)
        hand = (start[0] + side * across * long, start[1] + up * long, make.uniform(-0.03, 0.12))
        make.capsule(start, hand, (thick, thick * 0.8), sleeve, blend=0.03)
        make.ellipsoid(thick * 1.05, skin, hand)
        if side == 1 and make.chance(0.2):
            low, high = hand[1] - 0.15, hand[1] + 0.35
            ends = (hand[0], low, hand[2] + 0.03), (hand[0], high, hand[2] + 0.03)
            make.capsule(*ends, (0.025, 0.03), make.solid_colour(2))


def _headdress(make: Builder, centre: Point, head: float) -> None:
    """Hair, a helmet with a crest, a hat, or ears."""
    _, y, z = centre
    hair = make.solid_colour(make.choice((2, 3)))
    kind = make.choice(("hair", "hair", "hat", "cone", "ears", "crest"))
    if kind in ("hair", "crest"):
        cap = (0.0, y + head * 0.22, z - head * 0.18)
        make.ellipsoid((head * 1.06, head, head), hair, cap, blend=0.01)
    if kind == "crest":
        top = (0.0, y + head * 0.8, z - 0.05)
        make.ellipsoid((head * 0.15, head * 0.6, head), make.solid_colour(2), top)
    elif kind == "hair" and make.chance(0.4):
        mane = (0.0, y - head * 0.4, z - head * 0.8)
        make.ellipsoid((head * 0.8, head * 1.2, head * 0.4), hair, mane, blend=0.05)
    elif kind == "hat":
        top, brim = (0.0, y + head * 1.1, z), (0.0, y + head * 0.75, z)
        make.frustum((head * 0.8, head * 0.75, head * 0.7), make.pattern(2, head), top, 0.03)
        make.frustum((0.06, head * 1.25, head * 1.2), make.solid_colour(2), brim, 0.02)
    elif kind == "cone":
        top = (0.0, y + head * 1.3, z)
        make.frustum((head * 1.5, head * 0.9, head * 0.1), make.pattern(2, head), top, 0.02)
    elif kind == "ears":
        long, ear = make.uniform(0.4, 1.0) * head, (head * 0.55, y + head * 0.8, z)
        options = {"rotation": euler_rotation(z_deg=-15), "blend": 0.02, "mirror": True}
        make.ellipsoid((head * 0.25, long, head * 0.15), make.solid_colour(1), ear, **options)


def bird(make: Builder) -> None:
    """A sitting or standing bird, duck or penguin: an egg-shaped body, a head, a beak and wings."""
    coat, belly = make.pattern(0, 0.8, plain=0.4), make.solid_colour(make.choice((1, 4)))
    wide, tall, lean = make.uniform(0.2, 0.3), make.uniform(0.25, 0.42), make.uniform(10, 60)
    make.ellipsoid(
        (wide, tall, wide * 0.95), coat, (0, tall, 0), rotation=euler_rotation(x_deg=lean)
    )
    if make.chance(0.6):
        front = (0.0, tall * 0.9, wide * 0.6)
        make.ellipsoid((wide * 0.8, tall * 0.75, wide * 0.7), belly, front, role="decal")
    head = make.uniform(0.14, 0.2)
    centre = (0.0, tall * 1.75 + head * 0.3, wide * 0.4 + lean * 0.002)
    make.capsule((0, tall * 1.2, 0.05), centre, (wide * 0.6, head * 0.8), coat, blend=0.06)
    make.ellipsoid(head, make.pattern(make.choice((0, 2)), 0.4, plain=0.7), centre, blend=0.02)
    beak = make.uniform(0.08, 0.22)
    tip = (0.0, centre[1] - head * 0.1, centre[2] + head + beak * 0.5)
    make.frustum(
        (beak * 1.6, head * 0.45, 0.02), ORANGE, tip, 0.01, rotation=euler_rotation(x_deg=90)
    )
    eyes(make, centre, head * 0.25, head * 0.55, head * 0.25, head * 0.75)
    spread = make.uniform(-5, 50)
    wing, side = (0.05, tall * 0.75, wide * 0.6), (wide * 0.95 + spread * 0.002, tall * 1.05, -0.05)
    options = {"rotation": euler_rotation(z_deg=spread), "blend": 0.03, "mirror": True}
    make.ellipsoid(wing, make.pattern(1, 0.5), side, **options)
    tail = (0.0, tall * 0.45, -wide * 1.15)
    make.ellipsoid(
        (wide * 0.5, 0.05, 0.2),
        make.solid_colour(1),
        tail,
        rotation=euler_rotation(x_deg=20),
        blend=0.04,
    )
    make.ellipsoid((0.07, 0.03, 0.11), ORANGE, (wide * 0.5, 0.02, 0.08), mirror=True)
    legs = (wide * 0.5, 0.02, 0.02), (wide * 0.5, 0.14, 0.02)
    make.capsule(*legs, (0.035, 0.035), ORANGE, mirror=True)
    if make.chance(0.3):
        make.ellipsoid(
            (0.03, 0.1, 0.08), make.solid_colour(2), (0, centre[1] + head, centre[2]), blend=0.02
        )


def robot(make: Builder) -> None:
    """A robot of boxes and cylinders with a decorated front and an antenna."""
    wide, tall, deep = make.uniform(0.18, 0.3), make.uniform(0.2, 0.3), make.uniform(0.14, 0.2)
    rounding, leg = make.uniform(0.01, 0.06), make.uniform(0.1, 0.3)
    trim, dark, middle = make.solid_colour(2), make.solid_colour(3), leg + tall
    make.box((wide, tall, deep), make.pattern(0, 0.5, plain=0.5), (0, middle, 0), rounding)
    sign = make.pattern(4, wide, plain=0.1)
    make.box((wide * 0.6, tall * 0.5, 0.05), sign, (0, middle, deep), role="decal")
    _robot_head(make, leg + 2 * tall, make.uniform(0.12, 0.2), rounding)
    lift, long = make.uniform(-80, 40), make.uniform(0.25, 0.35)
    shoulder = (wide + 0.02, middle + tall * 0.6, 0.0)
    across, up = np.cos(np.radians(lift)), np.sin(np.radians(lift))
    hand = (shoulder[0] + across * long, shoulder[1] + up * long, make.uniform(0, 0.12))
    make.capsule(shoulder, hand, (0.06, 0.05), dark, mirror=True)
    make.torus((0.06, 0.03), trim, hand, rotation=euler_rotation(x_deg=90), mirror=True)
    if make.chance(0.7):
        ends = (wide * 0.55, 0.05, 0.0), (wide * 0.55, leg + 0.05, 0.0)
        make.capsule(*ends, (0.06, 0.06), dark, mirror=True)
        make.box((0.09, 0.045, 0.13), trim, (wide * 0.55, 0.045, 0.03), 0.02, mirror=True)
        return
    wheel = (wide * 0.9, leg * 0.75, 0.0)
    options = {"rotation": euler_rotation(z_deg=90), "mirror": True}
    make.frustum((0.1, leg * 0.75, leg * 0.75), dark, wheel, 0.02, **options)
    make.box((wide * 0.5, leg * 0.7, deep * 0.6), dark, (0, leg * 0.8, 0))


def _robot_head(make: Builder, neck: float, head: float, rounding: float) -> None:
    """A box or cylinder as the head, on a short neck, with eyes, a mouth and antennas."""
    centre, trim = (0.0, neck + head + 0.04, 0.0), make.solid_colour(2)
    make.frustum((0.16, 0.06, 0.06), make.solid_colour(3), (0, neck, 0))
    if make.chance(0.6):
        make.box((head * 1.2, head, head), make.solid_colour(1), centre, rounding)
    else:
        make.frustum((head * 2, head * 1.1, head * 1.1), make.solid_colour(1), centre, rounding)
    eyes(make, centre, head * 0.28, head * 0.5, head * 0.15, head)
    make.box((head * 0.6, head * 0.12, 0.06), DARK, (0, centre[1] - head * 0.5, head), role="decal")
    if make.chance(0.6):
        top = centre[1] + head
        make.capsule((0, top, 0), (0, top + 0.15, 0), (0.025, 0.02), make.solid_colour(3))
        make.ellipsoid(0.05, trim, (0, top + 0.17, 0))
    if make.chance(0.4):
        options = {"rotation": euler_rotation(z_deg=-90), "mirror": True}
        make.frustum((0.06, 0.08, 0.06), trim, (head * 1.2, centre[1], 0), 0.01, **options)


def snowman(make: Builder) -> None:
    """A stack of spheres with a face: snowman, skittle, toy or ghost."""
    y, radius = 0.0, make.uniform(0.28, 0.36)
    blend = make.choice((0.0, 0.0, 0.1))
    coat = make.pattern(make.choice((0, 4)), 0.6)
    for index in range(make.integer(2, 3)):
        pattern: ColourPattern = coat if make.chance(0.5) else make.pattern(index, 0.5)
        squash = make.uniform(0.8, 1.05)
        y += radius * squash * (1.0 if index == 0 else 0.75)
        make.ellipsoid((radius, radius * squash, radius), pattern, (0, y, 0), blend=blend)
        centre, top, size = (0.0, y, 0.0), y + radius * squash, radius
        y += radius * squash * 0.75
        radius *= make.uniform(0.68, 0.85)
    eyes(make, centre, size * 0.2, size * 0.38, size * 0.2, size * 0.85)
    if make.chance(0.7):
        nose = (0.0, centre[1] - size * 0.05, size * 1.3)
        make.frustum(
            (size * 0.9, size * 0.2, 0.02), ORANGE, nose, 0.01, rotation=euler_rotation(x_deg=90)
        )
    for index in range(make.integer(0, 3)):
        button = (0.0, centre[1] - size - 0.1 - 0.13 * index, 0.3)
        make.ellipsoid((0.045, 0.045, 0.3), DARK, button, role="decal")
    if make.chance(0.6):
        hat = (size * 0.9, size * 0.7, size * 0.65)
        make.frustum(hat, make.pattern(2, size), (0, top + size * 0.3, 0), 0.02)
        make.frustum(
            (0.06, size * 1.1, size * 1.1), make.solid_colour(2), (0, top - size * 0.1, 0), 0.02
        )
    if make.chance(0.5):
        scarf = (0.0, centre[1] - size * 0.8, 0.0)
        make.torus((size * 0.8, 0.06), make.pattern(make.choice((1, 2)), 0.3), scarf)
    if make.chance(0.5):
        start, reach = (size * 0.9, centre[1] - size, 0.0), make.uniform(0.2, 0.4)
        end = (size + reach, centre[1] - make.uniform(0.0, 0.35), 0.08)
        make.capsule(start, end, (0.035, 0.03), make.solid_colour(3), mirror=True)

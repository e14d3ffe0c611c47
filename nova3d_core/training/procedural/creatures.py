"""Articulated blobs: characters, birds, robots, snowmen. They look along +Z."""

from __future__ import annotations

import numpy as np

from .builder import Builder, Point, turned
from .color_patterns import Paint, Plain

DARK, PALE = Plain((0.08, 0.07, 0.09)), Plain((0.92, 0.92, 0.9))
ORANGE = Plain((0.93, 0.56, 0.12))
SKINS = ((0.9, 0.74, 0.6), (0.78, 0.56, 0.4), (0.5, 0.33, 0.22))


def eyes(make: Builder, head: Point, radius: float, apart: float, up: float, out: float) -> None:
    """Two eyes on a head, from its centre: white with a dark pupil, or dark only."""
    x, y, z = head[0] + apart, head[1] + up, head[2] + out
    if make.chance(0.6):
        make.ball(radius, PALE, (x, y, z), pair=True, role="paint")
        z, radius = z + radius * 0.5, radius * 0.6
    make.ball((radius, radius, radius * 1.6), DARK, (x, y, z), pair=True, role="paint")


def character(make: Builder) -> None:
    """A person with a large head: clothes, hair or a hat, now and then something in a hand."""
    skin = Plain(make.one_of((*SKINS, make.colours[4])))
    shirt, trousers = make.coat(0, 0.5), make.coat(make.one_of((1, 3)), 0.5, plain=0.7)
    head, wide, torso = make.between(0.2, 0.3), make.between(0.13, 0.2), make.between(0.28, 0.4)
    thick, hip = make.between(0.055, 0.085), make.between(0.25, 0.45)
    shoulder = hip + torso
    chest = (0.0, hip + torso * 0.5, 0.0)
    make.ball((wide, torso * 0.62, wide * 0.75), shirt, chest)
    make.ball((wide * 0.95, 0.11, wide * 0.75), trousers, (0, hip + 0.04, 0), blend=0.05)
    stride = make.between(-0.08, 0.08) if make.chance(0.4) else 0.0
    shoes = make.plain(3)
    for side in (-1, 1):
        x, z = side * wide * 0.6, side * stride
        hip_at = (side * wide * 0.5, hip, 0.0)
        make.limb((x, 0.05, z), hip_at, (thick * 0.9, thick * 1.1), trousers, blend=0.03)
        make.ball((thick, 0.05, thick * 1.7), shoes, (x, 0.045, z + 0.04))
    _arms(make, (wide * 0.85, shoulder - 0.06), thick, shirt, skin)
    at = (0.0, shoulder + head * 0.95, 0.0)
    make.ball((head, head * make.between(0.95, 1.15), head * 0.95), skin, at, blend=0.02)
    eyes(make, at, head * 0.2, head * 0.38, head * 0.12, head * 0.88)
    mouth = (0.0, at[1] - head * 0.45, head * 0.85)
    make.ball((head * 0.3, head * 0.08, head * 0.2), Plain((0.55, 0.2, 0.2)), mouth, role="paint")
    _headdress(make, at, head)
    if make.chance(0.3):  # a satchel on the back
        back = (0.0, hip + torso * 0.6, -wide * 0.75)
        make.box((wide * 0.75, torso * 0.35, 0.07), make.coat(2, 0.3), back, 0.03)
    if make.chance(0.4):  # a belt
        make.box((0.4, 0.025, 0.4), make.plain(3), (0, hip + 0.07, 0), role="paint")


def _arms(make: Builder, shoulder: tuple[float, float], thick: float, sleeve, skin) -> None:
    """Two arms with hands, mostly alike; now and then a stick in one hand."""
    same, lift, long = make.chance(0.6), make.between(-65, 70), make.between(0.28, 0.4)
    for side in (1, -1):
        if side == -1 and not same:
            lift = make.between(-65, 75)
        across, up = np.cos(np.radians(lift)), np.sin(np.radians(lift))
        start = (side * shoulder[0], shoulder[1], 0.0)
        hand = (start[0] + side * across * long, start[1] + up * long, make.between(-0.03, 0.12))
        make.limb(start, hand, (thick, thick * 0.8), sleeve, blend=0.03)
        make.ball(thick * 1.05, skin, hand)
        if side == 1 and make.chance(0.2):
            low, high = hand[1] - 0.15, hand[1] + 0.35
            ends = (hand[0], low, hand[2] + 0.03), (hand[0], high, hand[2] + 0.03)
            make.limb(*ends, (0.025, 0.03), make.plain(2))


def _headdress(make: Builder, at: Point, head: float) -> None:
    """Hair, a helmet with a crest, a hat, or ears."""
    _, y, z = at
    hair = make.plain(make.one_of((2, 3)))
    kind = make.one_of(("hair", "hair", "hat", "cone", "ears", "crest"))
    if kind in ("hair", "crest"):
        cap = (0.0, y + head * 0.22, z - head * 0.18)
        make.ball((head * 1.06, head, head), hair, cap, blend=0.01)
    if kind == "crest":
        top = (0.0, y + head * 0.8, z - 0.05)
        make.ball((head * 0.15, head * 0.6, head), make.plain(2), top)
    elif kind == "hair" and make.chance(0.4):
        mane = (0.0, y - head * 0.4, z - head * 0.8)
        make.ball((head * 0.8, head * 1.2, head * 0.4), hair, mane, blend=0.05)
    elif kind == "hat":
        top, brim = (0.0, y + head * 1.1, z), (0.0, y + head * 0.75, z)
        make.drum((head * 0.8, head * 0.75, head * 0.7), make.coat(2, head), top, 0.03)
        make.drum((0.06, head * 1.25, head * 1.2), make.plain(2), brim, 0.02)
    elif kind == "cone":
        top = (0.0, y + head * 1.3, z)
        make.drum((head * 1.5, head * 0.9, head * 0.1), make.coat(2, head), top, 0.02)
    elif kind == "ears":
        long, ear = make.between(0.4, 1.0) * head, (head * 0.55, y + head * 0.8, z)
        how = {"turn": turned(z_deg=-15), "blend": 0.02, "pair": True}
        make.ball((head * 0.25, long, head * 0.15), make.plain(1), ear, **how)


def bird(make: Builder) -> None:
    """A sitting or standing bird, duck or penguin: an egg, a head, a beak, wings."""
    coat, belly = make.coat(0, 0.8, plain=0.4), make.plain(make.one_of((1, 4)))
    wide, tall, lean = make.between(0.2, 0.3), make.between(0.25, 0.42), make.between(10, 60)
    make.ball((wide, tall, wide * 0.95), coat, (0, tall, 0), turn=turned(x_deg=lean))
    if make.chance(0.6):
        front = (0.0, tall * 0.9, wide * 0.6)
        make.ball((wide * 0.8, tall * 0.75, wide * 0.7), belly, front, role="paint")
    head = make.between(0.14, 0.2)
    at = (0.0, tall * 1.75 + head * 0.3, wide * 0.4 + lean * 0.002)
    make.limb((0, tall * 1.2, 0.05), at, (wide * 0.6, head * 0.8), coat, blend=0.06)
    make.ball(head, make.coat(make.one_of((0, 2)), 0.4, plain=0.7), at, blend=0.02)
    beak = make.between(0.08, 0.22)
    tip = (0.0, at[1] - head * 0.1, at[2] + head + beak * 0.5)
    make.drum((beak * 1.6, head * 0.45, 0.02), ORANGE, tip, 0.01, turn=turned(x_deg=90))
    eyes(make, at, head * 0.25, head * 0.55, head * 0.25, head * 0.75)
    spread = make.between(-5, 50)
    wing, side = (0.05, tall * 0.75, wide * 0.6), (wide * 0.95 + spread * 0.002, tall * 1.05, -0.05)
    how = {"turn": turned(z_deg=spread), "blend": 0.03, "pair": True}
    make.ball(wing, make.coat(1, 0.5), side, **how)
    tail = (0.0, tall * 0.45, -wide * 1.15)
    make.ball((wide * 0.5, 0.05, 0.2), make.plain(1), tail, turn=turned(x_deg=20), blend=0.04)
    make.ball((0.07, 0.03, 0.11), ORANGE, (wide * 0.5, 0.02, 0.08), pair=True)
    legs = (wide * 0.5, 0.02, 0.02), (wide * 0.5, 0.14, 0.02)
    make.limb(*legs, (0.035, 0.035), ORANGE, pair=True)
    if make.chance(0.3):
        make.ball((0.03, 0.1, 0.08), make.plain(2), (0, at[1] + head, at[2]), blend=0.02)


def robot(make: Builder) -> None:
    """A robot of boxes and drums, with a painted front and something on its head."""
    wide, tall, deep = make.between(0.18, 0.3), make.between(0.2, 0.3), make.between(0.14, 0.2)
    edge, leg = make.between(0.01, 0.06), make.between(0.1, 0.3)
    trim, dark, middle = make.plain(2), make.plain(3), leg + tall
    make.box((wide, tall, deep), make.coat(0, 0.5, plain=0.5), (0, middle, 0), edge)
    sign = make.coat(4, wide, plain=0.1)
    make.box((wide * 0.6, tall * 0.5, 0.05), sign, (0, middle, deep), role="paint")
    _robot_head(make, leg + 2 * tall, make.between(0.12, 0.2), edge)
    lift, long = make.between(-80, 40), make.between(0.25, 0.35)
    shoulder = (wide + 0.02, middle + tall * 0.6, 0.0)
    across, up = np.cos(np.radians(lift)), np.sin(np.radians(lift))
    hand = (shoulder[0] + across * long, shoulder[1] + up * long, make.between(0, 0.12))
    make.limb(shoulder, hand, (0.06, 0.05), dark, pair=True)
    make.ring((0.06, 0.03), trim, hand, turn=turned(x_deg=90), pair=True)
    if make.chance(0.7):
        ends = (wide * 0.55, 0.05, 0.0), (wide * 0.55, leg + 0.05, 0.0)
        make.limb(*ends, (0.06, 0.06), dark, pair=True)
        make.box((0.09, 0.045, 0.13), trim, (wide * 0.55, 0.045, 0.03), 0.02, pair=True)
        return
    wheel = (wide * 0.9, leg * 0.75, 0.0)
    how = {"turn": turned(z_deg=90), "pair": True}
    make.drum((0.1, leg * 0.75, leg * 0.75), dark, wheel, 0.02, **how)
    make.box((wide * 0.5, leg * 0.7, deep * 0.6), dark, (0, leg * 0.8, 0))


def _robot_head(make: Builder, neck: float, head: float, edge: float) -> None:
    """A head on a short neck: a box or a can, with eyes, a mouth, aerials."""
    at, trim = (0.0, neck + head + 0.04, 0.0), make.plain(2)
    make.drum((0.16, 0.06, 0.06), make.plain(3), (0, neck, 0))
    if make.chance(0.6):
        make.box((head * 1.2, head, head), make.plain(1), at, edge)
    else:
        make.drum((head * 2, head * 1.1, head * 1.1), make.plain(1), at, edge)
    eyes(make, at, head * 0.28, head * 0.5, head * 0.15, head)
    make.box((head * 0.6, head * 0.12, 0.06), DARK, (0, at[1] - head * 0.5, head), role="paint")
    if make.chance(0.6):
        top = at[1] + head
        make.limb((0, top, 0), (0, top + 0.15, 0), (0.025, 0.02), make.plain(3))
        make.ball(0.05, trim, (0, top + 0.17, 0))
    if make.chance(0.4):
        how = {"turn": turned(z_deg=-90), "pair": True}
        make.drum((0.06, 0.08, 0.06), trim, (head * 1.2, at[1], 0), 0.01, **how)


def snowman(make: Builder) -> None:
    """A stack of balls with a face: snowman, skittle, toy, ghost."""
    y, radius = 0.0, make.between(0.28, 0.36)
    blend = make.one_of((0.0, 0.0, 0.1))
    coat = make.coat(make.one_of((0, 4)), 0.6)
    for index in range(make.count(2, 3)):
        paint: Paint = coat if make.chance(0.5) else make.coat(index, 0.5)
        squash = make.between(0.8, 1.05)
        y += radius * squash * (1.0 if index == 0 else 0.75)
        make.ball((radius, radius * squash, radius), paint, (0, y, 0), blend=blend)
        at, top, size = (0.0, y, 0.0), y + radius * squash, radius
        y += radius * squash * 0.75
        radius *= make.between(0.68, 0.85)
    eyes(make, at, size * 0.2, size * 0.38, size * 0.2, size * 0.85)
    if make.chance(0.7):
        nose = (0.0, at[1] - size * 0.05, size * 1.3)
        make.drum((size * 0.9, size * 0.2, 0.02), ORANGE, nose, 0.01, turn=turned(x_deg=90))
    for index in range(make.count(0, 3)):
        button = (0.0, at[1] - size - 0.1 - 0.13 * index, 0.3)
        make.ball((0.045, 0.045, 0.3), DARK, button, role="paint")
    if make.chance(0.6):
        hat = (size * 0.9, size * 0.7, size * 0.65)
        make.drum(hat, make.coat(2, size), (0, top + size * 0.3, 0), 0.02)
        make.drum((0.06, size * 1.1, size * 1.1), make.plain(2), (0, top - size * 0.1, 0), 0.02)
    if make.chance(0.5):
        scarf = (0.0, at[1] - size * 0.8, 0.0)
        make.ring((size * 0.8, 0.06), make.coat(make.one_of((1, 2)), 0.3), scarf)
    if make.chance(0.5):
        start, reach = (size * 0.9, at[1] - size, 0.0), make.between(0.2, 0.4)
        end = (size + reach, at[1] - make.between(0.0, 0.35), 0.08)
        make.limb(start, end, (0.035, 0.03), make.plain(3), pair=True)

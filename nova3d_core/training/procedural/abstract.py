"""Solids that are no particular thing: sums, differences and blends; and signs and plants."""

from __future__ import annotations

import numpy as np

from .builder import Builder, regular, turned
from .color_patterns import MARKS
from .shapes import Box, Drum, Ellipsoid, Limb, Outline, Plate, Ring, Shape


def _shape(make: Builder, size: float) -> Shape:
    """A simple solid of about this radius."""
    a, b, c = (size * make.between(0.55, 1.1) for _ in range(3))
    return make.one_of(
        (
            lambda: Ellipsoid((a, b, c)),
            lambda: Box((a, b, c), size * make.between(0.0, 0.4)),
            lambda: Drum(2 * a, b, c, size * 0.1),
            lambda: Limb(a, b * 0.7, c * 0.7),
            lambda: Ring(a, size * 0.35),
            lambda: Plate(regular(make.count(3, 7), a * 1.2), b * 0.6, 0.02),
            lambda: Plate(regular(make.count(4, 6), a * 1.2, a * 0.6), b * 0.5, 0.02),
        )
    )()


def solid(make: Builder) -> None:
    """A constructive solid: some parts joined, some cut away, often alike on left and right."""
    make.place(_shape(make, 0.35), make.coat(0, 0.6), (0, 0, 0))
    mirrored = make.chance(0.6)
    for index in range(make.count(1, 4)):
        size = make.between(0.12, 0.28)
        at = make.rng.normal(size=3)
        at = at / np.linalg.norm(at) * make.between(0.25, 0.42)
        turn = None if make.chance(0.6) else turned(*(make.between(0, 180) for _ in range(3)))
        pair = mirrored and abs(at[0]) > 0.1
        if not pair and mirrored:
            at[0], turn = 0.0, None
        place = tuple(float(v) for v in at)
        cut = make.chance(0.3)
        make.place(
            _shape(make, size),
            make.plain((index + 1) % 5) if cut else make.coat((index + 1) % 5, 0.4),
            place,
            turn=turn,
            blend=0.0 if cut else make.one_of((0.0, 0.0, 0.05, 0.12)),
            pair=pair,
            role="cut" if cut else "add",
        )
    if make.chance(0.3):
        make.place(_shape(make, 0.2), make.plain(2), (0, 0, 0.35), role="paint")


def blob(make: Builder) -> None:
    """Soft lumps run together, such as stones, clouds, coral, toys."""
    coat, size = make.coat(0, 0.7, plain=0.15), make.between(0.25, 0.35)
    make.ball((size, size * make.between(0.7, 1.2), size), coat, (0, 0, 0))
    mirrored = make.chance(0.6)
    for index in range(make.count(2, 5)):
        at = make.rng.normal(size=3)
        at = at / np.linalg.norm(at) * make.between(0.2, 0.4)
        radius = make.between(0.1, 0.22)
        paint = coat if make.chance(0.6) else make.coat((index + 1) % 5, 0.4)
        pair = mirrored and abs(at[0]) > 0.08
        place = (float(at[0]) if pair or not mirrored else 0.0, float(at[1]), float(at[2]))
        make.ball(radius, paint, place, blend=make.between(0.05, 0.2), pair=pair)


def sign(make: Builder) -> None:
    """A letter, star, heart, arrow or cross that stands on a foot, or by itself."""
    depth, coat = make.between(0.06, 0.18), make.coat(0, 0.5, plain=0.4)
    base = 0.0
    if make.chance(0.5):
        base = make.between(0.08, 0.3)
        make.limb((0, 0.02, 0), (0, base + 0.1, 0), (0.045, 0.045), make.plain(3))
        make.drum((0.06, 0.22, 0.2), make.plain(3), (0, 0.03, 0), 0.02)
    if make.chance(0.45):
        rows = make.one_of(MARKS)
        pixel = 0.075
        for row, bits in enumerate(rows):
            columns = [c for c in range(5) if bits >> (4 - c) & 1]
            for column in columns:
                at = ((column - 2) * 2 * pixel, base + (6 - row) * 2 * pixel + pixel, 0.0)
                make.box((pixel * 1.02, pixel * 1.02, depth), coat, at)
        return
    points = make.count(3, 8)
    star = regular(points, 0.45, make.between(0.2, 0.4) if make.chance(0.7) else None)
    arrow = (
        (-0.15, -0.45),
        (0.15, -0.45),
        (0.15, 0.0),
        (0.4, 0.0),
        (0.0, 0.45),
        (-0.4, 0.0),
        (-0.15, 0.0),
    )
    outline = make.one_of((star, star, Outline(arrow)))
    make.place(Plate(outline, depth, make.between(0.0, 0.05)), coat, (0, base + 0.45, 0))
    if make.chance(0.6):
        inner = Plate(regular(make.one_of((3, 4, 5, 24)), 0.18), 0.5)
        make.place(inner, make.plain(2), (0, base + 0.45, 0), role="paint")


def plant(make: Builder) -> None:
    """A tree, cactus, flower or potted plant."""
    kind = make.one_of(("tree", "cactus", "flower"))
    leaf, y = make.coat(make.one_of((0, 1)), 0.4), 0.0
    if make.chance(0.6):
        y = make.between(0.18, 0.28)
        pot = make.coat(2, 0.3)
        make.drum((y, y * 0.65, y * 0.9), pot, (0, y / 2, 0), 0.01)
        make.ring((y * 0.85, 0.04), pot, (0, y - 0.02, 0))
    if kind == "cactus":
        tall, thick = make.between(0.4, 0.6), make.between(0.09, 0.14)
        make.limb((0, y, 0), (0, y + tall, 0), (thick, thick), leaf)
        for side in (-1, 1):
            if make.chance(0.8):
                low = y + tall * make.between(0.35, 0.65)
                out = side * (thick + make.between(0.1, 0.16))
                make.limb((0, low, 0), (out, low, 0), (thick * 0.6,) * 2, leaf, blend=0.02)
                end = (out, low + make.between(0.12, 0.3), 0)
                make.limb((out, low, 0), end, (thick * 0.6,) * 2, leaf, blend=0.02)
        return
    tall = make.between(0.25, 0.45)
    thick = 0.035 if kind == "flower" else make.between(0.05, 0.09)
    make.limb((0, y, 0), (0, y + tall, 0), (thick, thick * 0.9), make.plain(3))
    top = y + tall
    if kind == "tree":
        size = make.between(0.2, 0.3)
        make.ball((size, size * make.between(0.8, 1.3), size), leaf, (0, top + size * 0.6, 0))
        for _ in range(make.count(1, 4)):
            angle, out = make.between(0, 6.28), size * make.between(0.5, 0.8)
            at = (np.cos(angle) * out, top + size * make.between(0.2, 1.2), np.sin(angle) * out)
            lump = size * make.between(0.5, 0.8)
            make.ball(lump, leaf, tuple(float(v) for v in at), blend=make.one_of((0.0, 0.06)))
        return
    petals, size = make.count(5, 8), make.between(0.1, 0.15)
    for index in range(petals):
        angle = 2 * np.pi * index / petals
        at = (float(np.cos(angle)) * size * 1.5, top + float(np.sin(angle)) * size * 1.5, 0.0)
        make.ball((size, size, 0.045), leaf, at)
    make.ball((size, size, 0.08), make.plain(2), (0, top, 0.02))
    for side in (-1, 1):
        how = {"turn": turned(z_deg=side * 30)}
        make.ball((0.14, 0.05, 0.06), make.plain(1), (side * 0.13, y + tall * 0.4, 0), **how)

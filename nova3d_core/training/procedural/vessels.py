"""Rotationally symmetric objects: vases, cups, lamps, bottles, chess pieces, food."""

from __future__ import annotations

import numpy as np

from .builder import Builder, euler_rotation, regular_polygon
from .colour_patterns import ColourPattern
from .shapes import Extrusion, lathe


def _profile(make: Builder, height: float, knots: int, low: float, high: float) -> tuple:
    """Radii and heights of a smooth profile through random control radii."""
    radii = make.rng.uniform(low, high, knots)
    knot = np.linspace(0, knots - 1, 14)
    left = np.minimum(knot.astype(int), knots - 2)
    t = knot - left
    t = t * t * (3 - 2 * t)
    smooth = radii[left] * (1 - t) + radii[left + 1] * t
    return smooth, np.linspace(0, height, 14)


def vase(make: Builder) -> None:
    """A vase, jug or amphora: a hollow body with handles or a spout."""
    tall = make.uniform(0.7, 1.0)
    radii, heights = _profile(make, tall, make.integer(3, 5), 0.14, 0.4)
    make.place(lathe(radii, heights), make.pattern(0, 0.7, plain=0.15), (0, tall / 2, 0))
    rim = float(radii[-1])
    if rim > 0.12:
        inside = make.solid_colour(3)
        make.frustum((0.5, rim * 0.5, rim - 0.05), inside, (0, tall - 0.05, 0), role="subtract")
    if make.chance(0.6):
        band, y = make.pattern(make.choice((1, 2, 4)), 0.3), make.uniform(0.2, 0.8) * tall
        make.box((1, make.uniform(0.03, 0.09), 1), band, (0, y, 0), role="decal")
    if make.chance(0.5):
        wide, y = float(radii.max()), make.uniform(0.5, 0.7) * tall
        size, rotation = (make.uniform(0.12, 0.2), 0.04), euler_rotation(x_deg=90)
        where = (float(np.interp(y, heights, radii)) + 0.03, y, 0.0)
        make.torus(
            size,
            make.solid_colour(1),
            where,
            rotation=rotation,
            blend=0.02,
            mirror=make.chance(0.6),
        )
        if make.chance(0.3):
            start = (-wide * 0.7, tall * 0.4, 0.0)
            make.capsule(
                start, (-wide - 0.25, tall * 0.8, 0), (0.07, 0.04), make.solid_colour(1), blend=0.03
            )


def cup(make: Builder) -> None:
    """A mug, bucket or bowl: hollow, with a pattern or badge and a handle on one side."""
    tall, wide = make.uniform(0.35, 0.9), make.uniform(0.3, 0.42)
    low = wide * make.uniform(0.55, 1.0)
    make.frustum((tall, low, wide), make.pattern(0, 0.6, plain=0.1), (0, tall / 2, 0), 0.03)
    inside = make.solid_colour(make.choice((1, 4)))
    make.frustum((tall, low - 0.06, wide - 0.06), inside, (0, tall / 2 + 0.08, 0), role="subtract")
    if make.chance(0.5):
        level = tall * make.uniform(0.55, 0.8)
        inner = low + (wide - low) * level / tall - 0.03  # inside the wall
        make.frustum((level, low - 0.03, inner), make.solid_colour(3), (0, level / 2, 0))
    if make.chance(0.75):
        side = make.choice((-1, 1)) * (low + wide) / 2
        size = (min(tall * 0.32, 0.22), 0.045)
        make.torus(
            size,
            make.solid_colour(make.choice((0, 2))),
            (side, tall / 2, 0),
            rotation=euler_rotation(x_deg=90),
        )
        make.frustum(
            (tall, low - 0.06, wide - 0.06), inside, (0, tall / 2 + 0.08, 0), role="subtract"
        )
    if make.chance(0.5):
        _badge(make, (0.0, tall / 2, (low + wide) / 2), 0.18)


def _badge(make: Builder, centre: tuple[float, float, float], size: float) -> None:
    """A polygonal, star-shaped or round badge on the front."""
    points = make.choice((3, 4, 5, 6, 24))
    inner = None if points == 24 else size * make.uniform(0.35, 0.8)
    shape = Extrusion(regular_polygon(points, size, inner), 0.15)
    make.place(shape, make.solid_colour(2), centre, role="decal")


def bottle(make: Builder) -> None:
    """A bottle or jar with a label and a cap."""
    wide, tall = make.uniform(0.17, 0.3), make.uniform(0.45, 0.7)
    neck, long = wide * make.uniform(0.3, 0.7), make.uniform(0.06, 0.3)
    radii = [wide * 0.9, wide, wide, wide * 0.95, neck, neck]
    heights = [0.0, 0.05, tall - 0.08, tall, tall + 0.12, tall + 0.12 + long]
    glass = make.pattern(0, 0.8, plain=0.6)
    top = heights[-1]
    make.place(lathe(radii, heights), glass, (0, top / 2, 0))
    label = make.pattern(4, 0.35, plain=0.1)
    y, half = tall * make.uniform(0.4, 0.55), tall * make.uniform(0.15, 0.3)
    make.box((1, half, 1), label, (0, y, 0), role="decal")
    if make.chance(0.5):
        _badge(make, (0.0, y, wide), half * 0.7)
    make.frustum((0.12, neck + 0.025, neck + 0.025), make.solid_colour(2), (0, top, 0), 0.02)


def lamp(make: Builder) -> None:
    """A stem with a cap: a table lamp, mushroom, parasol or tree."""
    stem: ColourPattern = make.pattern(make.choice((3, 4)), 0.4, plain=0.5)
    tall, wide = make.uniform(0.4, 0.7), make.uniform(0.3, 0.5)
    thick = make.uniform(0.05, 0.16)
    make.capsule((0, 0.05, 0), (0, tall, 0), (thick * make.uniform(0.8, 1.4), thick), stem)
    cap = make.pattern(0, 0.6, plain=0.15)
    kind = make.choice(("dome", "shade", "cone", "ball"))
    if kind == "dome":
        make.ellipsoid((wide, wide * make.uniform(0.5, 0.9), wide), cap, (0, tall, 0))
        under = (0.0, tall - wide * 0.9, 0.0)
        make.box((1, wide * 0.8, 1), make.solid_colour(4), under, role="subtract")
        make.capsule((0, 0.05, 0), (0, tall, 0), (thick, thick), stem)
    elif kind == "shade":
        high = make.uniform(0.25, 0.45)
        make.frustum(
            (high, wide * 0.8, wide * make.uniform(0.3, 0.7)), cap, (0, tall + high / 3, 0)
        )
    elif kind == "cone":
        for index in range(make.integer(1, 3)):
            centre, size = tall + 0.2 * index, wide * (1 - 0.2 * index)
            make.frustum((0.4, size, 0.03), cap, (0, centre + 0.1, 0), 0.02)
    else:
        make.ellipsoid(wide * 0.8, cap, (0, tall + wide * 0.5, 0))
    if make.chance(0.6):
        base = make.uniform(0.15, 0.3)
        make.frustum(
            (0.08, base, base * 0.9), make.solid_colour(make.choice((1, 2))), (0, 0.04, 0), 0.02
        )


def chessman(make: Builder) -> None:
    """A chess piece, trophy or baluster."""
    coat = make.pattern(0, 0.7, plain=0.5)
    base, waist = make.uniform(0.22, 0.32), make.uniform(0.08, 0.14)
    tall = make.uniform(0.5, 0.75)
    radii = [base, base, base * 0.75, waist * 1.4, waist, waist * 1.6, waist * 1.1]
    heights = [0.0, 0.08, 0.14, 0.22, tall * 0.7, tall * 0.85, tall]
    make.place(lathe(radii, heights), coat, (0, tall / 2, 0))
    make.frustum((0.05, waist * 1.9, waist * 1.9), make.solid_colour(1), (0, tall - 0.03, 0), 0.02)
    kind = make.choice(("ball", "crown", "cross", "bowl"))
    trim = make.solid_colour(make.choice((0, 2)))
    size = make.uniform(0.13, 0.2)
    if kind in ("ball", "cross"):
        make.ellipsoid(size, coat, (0, tall + size * 0.8, 0))
    if kind == "cross":
        y = tall + size * 2.1
        make.box((0.035, size * 0.7, 0.035), trim, (0, y, 0))
        make.box((size * 0.5, 0.035, 0.035), trim, (0, y + 0.02, 0))
    elif kind == "crown":
        make.frustum((size * 1.6, size * 0.8, size * 1.3), coat, (0, tall + size * 0.8, 0))
        for index in range(6):
            angle = np.pi * index / 3
            x, z = np.cos(angle) * size * 1.1, np.sin(angle) * size * 1.1
            make.ellipsoid(0.05, trim, (float(x), tall + size * 1.7, float(z)))
    elif kind == "bowl":
        make.ellipsoid((size * 1.6, size * 1.3, size * 1.6), coat, (0, tall + size * 1.1, 0))
        top = (0.0, tall + size * 2.2, 0.0)
        make.box((1, size * 0.8, 1), make.solid_colour(3), top, role="subtract")
        options = {"rotation": euler_rotation(x_deg=90), "mirror": True}
        make.torus((size * 0.6, 0.03), trim, (size * 1.7, tall + size * 0.9, 0), **options)


def fruit(make: Builder) -> None:
    """A fruit, cake, sweet or ice cream."""
    kind = make.choice(("fruit", "cake", "cone"))
    coat = make.pattern(0, 0.7, plain=0.25)
    if kind == "fruit":
        radii, heights = _profile(make, 0.8, 4, 0.2, 0.42)
        radii[0], radii[-1] = radii[1] * 0.5, radii[-2] * 0.5
        make.place(lathe(radii, heights), coat, (0, 0.4, 0), blend=0.02)
        make.capsule((0, 0.75, 0), (0.05, 0.95, 0), (0.03, 0.035), make.solid_colour(3))
        leaf = (make.choice((-1, 1)) * 0.15, 0.9, 0.0)
        make.ellipsoid(
            (0.15, 0.035, 0.08),
            make.solid_colour(2),
            leaf,
            rotation=euler_rotation(z_deg=make.uniform(-30, 30)),
        )
        return
    if kind == "cake":
        y, wide = 0.0, make.uniform(0.35, 0.45)
        for index in range(make.integer(1, 3)):
            high = make.uniform(0.15, 0.3)
            make.frustum((high, wide, wide), make.pattern(index, 0.5), (0, y + high / 2, 0), 0.03)
            icing = make.solid_colour(make.choice((2, 4)))
            make.torus((wide * 0.9, 0.05), icing, (0, y + high, 0), blend=0.02)
            y, wide = y + high, wide * make.uniform(0.6, 0.8)
        make.ellipsoid(0.09, make.solid_colour(2), (0, y + 0.06, 0))
        return
    make.frustum((0.55, 0.03, 0.22), make.pattern(1, 0.3, plain=0.1), (0, 0.28, 0))
    for index in range(make.integer(1, 3)):
        size = 0.24 - 0.03 * index
        make.ellipsoid(size, make.pattern(index * 2, 0.4), (0, 0.62 + 0.25 * index, 0), blend=0.02)

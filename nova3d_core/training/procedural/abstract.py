"""Abstract solids (unions, differences and blends), signs and plants."""

from __future__ import annotations

import numpy as np

from .builder import Builder, euler_rotation, regular_polygon
from .colour_patterns import GLYPHS
from .shapes import Box, Capsule, Ellipsoid, Extrusion, Frustum, Polygon, Shape, Torus


def _shape(make: Builder, size: float) -> Shape:
    """A random primitive of about this radius."""
    a, b, c = (size * make.uniform(0.55, 1.1) for _ in range(3))
    return make.choice(
        (
            lambda: Ellipsoid((a, b, c)),
            lambda: Box((a, b, c), size * make.uniform(0.0, 0.4)),
            lambda: Frustum(2 * a, b, c, size * 0.1),
            lambda: Capsule(a, b * 0.7, c * 0.7),
            lambda: Torus(a, size * 0.35),
            lambda: Extrusion(regular_polygon(make.integer(3, 7), a * 1.2), b * 0.6, 0.02),
            lambda: Extrusion(regular_polygon(make.integer(4, 6), a * 1.2, a * 0.6), b * 0.5, 0.02),
        )
    )()


def solid(make: Builder) -> None:
    """A CSG solid: a union and difference of primitives, often mirror-symmetric."""
    make.place(_shape(make, 0.35), make.pattern(0, 0.6), (0, 0, 0))
    mirrored = make.chance(0.6)
    for index in range(make.integer(1, 4)):
        size = make.uniform(0.12, 0.28)
        centre = make.rng.normal(size=3)
        centre = centre / np.linalg.norm(centre) * make.uniform(0.25, 0.42)
        rotation = (
            None if make.chance(0.6) else euler_rotation(*(make.uniform(0, 180) for _ in range(3)))
        )
        mirror = mirrored and abs(centre[0]) > 0.1
        if not mirror and mirrored:
            centre[0], rotation = 0.0, None
        place = tuple(float(v) for v in centre)
        cut = make.chance(0.3)
        make.place(
            _shape(make, size),
            make.solid_colour((index + 1) % 5) if cut else make.pattern((index + 1) % 5, 0.4),
            place,
            rotation=rotation,
            blend=0.0 if cut else make.choice((0.0, 0.0, 0.05, 0.12)),
            mirror=mirror,
            role="subtract" if cut else "add",
        )
    if make.chance(0.3):
        make.place(_shape(make, 0.2), make.solid_colour(2), (0, 0, 0.35), role="decal")


def blob(make: Builder) -> None:
    """Smoothly blended blobs, such as stones, clouds, coral or toys."""
    coat, size = make.pattern(0, 0.7, plain=0.15), make.uniform(0.25, 0.35)
    make.ellipsoid((size, size * make.uniform(0.7, 1.2), size), coat, (0, 0, 0))
    mirrored = make.chance(0.6)
    for index in range(make.integer(2, 5)):
        centre = make.rng.normal(size=3)
        centre = centre / np.linalg.norm(centre) * make.uniform(0.2, 0.4)
        radius = make.uniform(0.1, 0.22)
        pattern = coat if make.chance(0.6) else make.pattern((index + 1) % 5, 0.4)
        mirror = mirrored and abs(centre[0]) > 0.08
        place = (
            float(centre[0]) if mirror or not mirrored else 0.0,
            float(centre[1]),
            float(centre[2]),
        )
        make.ellipsoid(radius, pattern, place, blend=make.uniform(0.05, 0.2), mirror=mirror)


def sign(make: Builder) -> None:
    """A letter, star or arrow, with or without a stand."""
    depth, coat = make.uniform(0.06, 0.18), make.pattern(0, 0.5, plain=0.4)
    base = 0.0
    if make.chance(0.5):
        base = make.uniform(0.08, 0.3)
        make.capsule((0, 0.02, 0), (0, base + 0.1, 0), (0.045, 0.045), make.solid_colour(3))
        make.frustum((0.06, 0.22, 0.2), make.solid_colour(3), (0, 0.03, 0), 0.02)
    if make.chance(0.45):
        rows = make.choice(GLYPHS)
        pixel = 0.075
        for row, bits in enumerate(rows):
            columns = [c for c in range(5) if bits >> (4 - c) & 1]
            for column in columns:
                centre = ((column - 2) * 2 * pixel, base + (6 - row) * 2 * pixel + pixel, 0.0)
                make.box((pixel * 1.02, pixel * 1.02, depth), coat, centre)
        return
    points = make.integer(3, 8)
    star = regular_polygon(points, 0.45, make.uniform(0.2, 0.4) if make.chance(0.7) else None)
    arrow = (
        (-0.15, -0.45),
        (0.15, -0.45),
        (0.15, 0.0),
        (0.4, 0.0),
        (0.0, 0.45),
        (-0.4, 0.0),
        (-0.15, 0.0),
    )
    polygon = make.choice((star, star, Polygon(arrow)))
    make.place(Extrusion(polygon, depth, make.uniform(0.0, 0.05)), coat, (0, base + 0.45, 0))
    if make.chance(0.6):
        inner = Extrusion(regular_polygon(make.choice((3, 4, 5, 24)), 0.18), 0.5)
        make.place(inner, make.solid_colour(2), (0, base + 0.45, 0), role="decal")


def plant(make: Builder) -> None:
    """A tree, cactus, flower or potted plant."""
    kind = make.choice(("tree", "cactus", "flower"))
    leaf, y = make.pattern(make.choice((0, 1)), 0.4), 0.0
    if make.chance(0.6):
        y = make.uniform(0.18, 0.28)
        pot = make.pattern(2, 0.3)
        make.frustum((y, y * 0.65, y * 0.9), pot, (0, y / 2, 0), 0.01)
        make.torus((y * 0.85, 0.04), pot, (0, y - 0.02, 0))
    if kind == "cactus":
        tall, thick = make.uniform(0.4, 0.6), make.uniform(0.09, 0.14)
        make.capsule((0, y, 0), (0, y + tall, 0), (thick, thick), leaf)
        for side in (-1, 1):
            if make.chance(0.8):
                low = y + tall * make.uniform(0.35, 0.65)
                out = side * (thick + make.uniform(0.1, 0.16))
                make.capsule((0, low, 0), (out, low, 0), (thick * 0.6,) * 2, leaf, blend=0.02)
                end = (out, low + make.uniform(0.12, 0.3), 0)
                make.capsule((out, low, 0), end, (thick * 0.6,) * 2, leaf, blend=0.02)
        return
    tall = make.uniform(0.25, 0.45)
    thick = 0.035 if kind == "flower" else make.uniform(0.05, 0.09)
    make.capsule((0, y, 0), (0, y + tall, 0), (thick, thick * 0.9), make.solid_colour(3))
    top = y + tall
    if kind == "tree":
        size = make.uniform(0.2, 0.3)
        make.ellipsoid((size, size * make.uniform(0.8, 1.3), size), leaf, (0, top + size * 0.6, 0))
        for _ in range(make.integer(1, 4)):
            angle, out = make.uniform(0, 6.28), size * make.uniform(0.5, 0.8)
            centre = (np.cos(angle) * out, top + size * make.uniform(0.2, 1.2), np.sin(angle) * out)
            lump = size * make.uniform(0.5, 0.8)
            make.ellipsoid(
                lump, leaf, tuple(float(v) for v in centre), blend=make.choice((0.0, 0.06))
            )
        return
    petals, size = make.integer(5, 8), make.uniform(0.1, 0.15)
    for index in range(petals):
        angle = 2 * np.pi * index / petals
        centre = (float(np.cos(angle)) * size * 1.5, top + float(np.sin(angle)) * size * 1.5, 0.0)
        make.ellipsoid((size, size, 0.045), leaf, centre)
    make.ellipsoid((size, size, 0.08), make.solid_colour(2), (0, top, 0.02))
    for side in (-1, 1):
        options = {"rotation": euler_rotation(z_deg=side * 30)}
        make.ellipsoid(
            (0.14, 0.05, 0.06), make.solid_colour(1), (side * 0.13, y + tall * 0.4, 0), **options
        )

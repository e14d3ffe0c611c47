"""Buildings and furniture, with the front at +Z."""

from __future__ import annotations

from .builder import Builder, euler_rotation
from .colour_patterns import SolidColour
from .shapes import Extrusion, Polygon

PANE, WOOD = SolidColour((0.3, 0.42, 0.52)), SolidColour((0.42, 0.27, 0.16))


def house(make: Builder) -> None:
    """A house with a roof, a door, windows and sometimes a chimney."""
    wide, tall, deep = make.uniform(0.24, 0.42), make.uniform(0.16, 0.32), make.uniform(0.2, 0.35)
    walls, roof = make.pattern(make.choice((0, 4)), 0.6, plain=0.5), make.pattern(2, 0.4, plain=0.4)
    make.box((wide, tall, deep), walls, (0, tall, 0), 0.01)
    rise, eave = make.uniform(0.15, 0.35), 0.05
    gable = ((-wide - eave, -rise / 2), (wide + eave, -rise / 2), (0.0, rise / 2))
    if make.chance(0.5):
        make.place(Extrusion(Polygon(gable), deep + eave), roof, (0, 2 * tall + rise / 2 - 0.02, 0))
    else:
        side = ((-deep - eave, -rise / 2), (deep + eave, -rise / 2), (0.0, rise / 2))
        options = {"rotation": euler_rotation(y_deg=90)}
        shape = Extrusion(Polygon(side), wide + eave)
        make.place(shape, roof, (0, 2 * tall + rise / 2 - 0.02, 0), **options)
    door = make.uniform(-0.5, 0.5) * wide if make.chance(0.4) else 0.0
    high = min(tall * 0.55, 0.13)
    make.box(
        (0.07, high, 0.06), make.solid_colour(make.choice((1, 3))), (door, high, deep), role="decal"
    )
    for x in (-0.62, 0.62):
        if abs(x * wide - door) > 0.13:
            centre = (x * wide, tall * 1.25, deep)
            make.box((0.075, 0.075, 0.06), PANE, centre, role="decal")
    for z in (-0.5, 0.5):
        centre = (wide, tall * 1.2, z * deep)
        make.box((0.06, 0.075, 0.07), PANE, centre, mirror=True, role="decal")
    make.box((0.09, 0.075, 0.06), PANE, (0, tall * 1.2, -deep), role="decal")
    if make.chance(0.5):
        centre = (make.choice((-1, 1)) * wide * 0.5, 2 * tall + rise * 0.7, -deep * 0.3)
        make.box((0.055, 0.14, 0.055), make.solid_colour(3), centre)
    if make.chance(0.4):
        size, side = make.uniform(0.12, 0.2), make.choice((-1, 1))
        centre = (side * (wide + size * 0.7), size, make.uniform(-0.1, 0.1))
        make.box((size, size, deep * 0.7), make.pattern(1, 0.4), centre, 0.01)
        make.box((size * 1.1, 0.03, deep * 0.78), roof, (centre[0], 2 * size, centre[2]))


def tower(make: Builder) -> None:
    """A tower, lighthouse, mill or keep: round or square, with a roof."""
    wide, tall = make.uniform(0.14, 0.26), make.uniform(0.5, 0.75)
    walls, trim = make.pattern(make.choice((0, 4)), 0.4, plain=0.2), make.solid_colour(2)
    round_one = make.chance(0.6)
    if round_one:
        make.frustum((tall, wide * make.uniform(1.0, 1.4), wide), walls, (0, tall / 2, 0))
    else:
        make.box((wide, tall / 2, wide), walls, (0, tall / 2, 0))
    make.box((0.06, 0.11, 0.5), make.solid_colour(3), (0, 0.1, wide + 0.45), role="decal")
    for index in range(make.integer(1, 3)):
        centre = (0.0, tall * (0.45 + 0.2 * index), wide + 0.2)
        make.box((0.045, 0.055, 0.25), PANE, centre, role="decal")
    kind = make.choice(("cone", "battlement", "dome", "lantern"))
    if kind == "cone":
        high = make.uniform(0.2, 0.4)
        make.frustum((high, wide * 1.3, 0.02), trim, (0, tall + high / 2, 0), 0.01)
    elif kind == "dome":
        make.ellipsoid((wide * 1.1, wide, wide * 1.1), trim, (0, tall, 0))
        make.capsule((0, tall, 0), (0, tall + wide + 0.1, 0), (0.025, 0.02), make.solid_colour(3))
    elif kind == "lantern":
        make.frustum((0.05, wide * 1.3, wide * 1.3), make.solid_colour(3), (0, tall, 0))
        make.frustum((0.14, wide * 0.7, wide * 0.7), PANE, (0, tall + 0.08, 0))
        make.frustum((0.12, wide * 0.95, 0.02), trim, (0, tall + 0.2, 0))
    else:
        make.box((wide * 1.15, 0.05, wide * 1.15), walls, (0, tall, 0))
        for x in (-1, 0, 1):
            for z in (-1, 0, 1):
                if x or z:
                    centre = (x * wide * 0.95, tall + 0.08, z * wide * 0.95)
                    make.box((wide * 0.2, 0.06, wide * 0.2), walls, centre)
    if kind == "battlement" and make.chance(0.5):
        make.capsule((0, tall, 0), (0, tall + 0.35, 0), (0.022, 0.022), WOOD)
        make.box((0.09, 0.06, 0.022), trim, (0.1, tall + 0.3, 0))
    if make.chance(0.35):
        low = tall * make.uniform(0.4, 0.6)
        centre = (make.choice((-1, 1)) * wide * 1.5, low / 2, -0.03)
        make.box((wide * 0.8, low / 2, wide * 0.8), make.pattern(1, 0.3), centre)


def chair(make: Builder) -> None:
    """A chair, stool, armchair or bench."""
    wide, deep = make.uniform(0.2, 0.32), make.uniform(0.2, 0.28)
    seat, thick = make.uniform(0.3, 0.45), make.uniform(0.03, 0.07)
    wood, cloth = make.pattern(make.choice((0, 3)), 0.5, plain=0.6), make.pattern(1, 0.4, plain=0.3)
    make.box((wide, thick, deep), cloth, (0, seat, 0), 0.02)
    leg = make.uniform(0.028, 0.05)
    x, z = wide - leg, deep - leg
    for front in (-z, z):
        make.box((leg, seat / 2, leg), wood, (x, seat / 2, front), 0.01, mirror=True)
    high = make.uniform(0.2, 0.35)
    if make.chance(0.85):
        if make.chance(0.5):
            back = (0.0, seat + high, -deep + 0.04)
            make.box((wide, high, 0.04), make.choice((wood, cloth)), back, 0.03)
        else:
            for y in (seat + high * 0.8, seat + high * 1.7):
                make.box((wide, 0.06, 0.035), wood, (0, y, -deep + 0.04), 0.01)
            make.box((leg, high, leg), wood, (x, seat + high, -z), 0.01, mirror=True)
        if make.chance(0.4):
            arm = (wide - 0.03, seat + 0.13, 0.0)
            make.box((0.04, 0.03, deep), wood, arm, 0.015, mirror=True)
            make.box((0.03, 0.08, 0.03), wood, (wide - 0.03, seat + 0.06, z), mirror=True)


def table(make: Builder) -> None:
    """A table, desk or stool with objects on it."""
    wide, deep, tall = make.uniform(0.3, 0.48), make.uniform(0.2, 0.35), make.uniform(0.25, 0.5)
    wood, leg = make.pattern(0, 0.6, plain=0.4), make.uniform(0.03, 0.05)
    if make.chance(0.3):
        make.frustum((0.08, wide, wide), wood, (0, tall, 0), 0.02)
        make.capsule((0, 0.05, 0), (0, tall, 0), (leg * 1.5, leg * 1.5), make.solid_colour(3))
        make.frustum((0.06, wide * 0.6, wide * 0.5), make.solid_colour(3), (0, 0.03, 0), 0.01)
    else:
        make.box((wide, 0.04, deep), wood, (0, tall, 0), 0.01)
        legs = make.solid_colour(3)
        for z in (-deep + leg, deep - leg):
            make.box((leg, tall / 2, leg), legs, (wide - leg, tall / 2, z), 0.01, mirror=True)
        if make.chance(0.4):
            side = make.choice((-1, 1)) * (wide * 0.55)
            make.box(
                (wide * 0.4, tall * 0.4, deep * 0.9), make.solid_colour(1), (side, tall * 0.6, 0)
            )
            for y in (0.45, 0.75):
                knob = (side, tall * y, deep * 0.9)
                make.ellipsoid(0.03, make.solid_colour(4), knob)
    for _ in range(make.integer(0, 2)):
        centre = (make.uniform(-0.6, 0.6) * wide, tall + 0.1, make.uniform(-0.4, 0.4) * deep)
        size = make.uniform(0.06, 0.1)
        if make.chance(0.5):
            make.frustum((0.14, size * 0.8, size), make.pattern(2, 0.2), centre, 0.01)
        else:
            make.box((size, 0.07, size), make.pattern(2, 0.2), centre, 0.01)


def cabinet(make: Builder) -> None:
    """A box with a front: a cabinet, clock, radio, television, chest, machine or crate."""
    wide, tall, deep = make.uniform(0.2, 0.45), make.uniform(0.2, 0.48), make.uniform(0.14, 0.35)
    make.box(
        (wide, tall, deep), make.pattern(0, 0.5, plain=0.4), (0, tall, 0), make.uniform(0.0, 0.08)
    )
    trim = make.solid_colour(make.choice((2, 3)))
    kind = make.choice(("screen", "drawers", "dial", "doors"))
    front = deep + 0.01
    if kind == "screen":
        make.box(
            (wide * 0.75, tall * 0.6, 0.08), trim, (0, tall * 1.15, front), 0.02, role="subtract"
        )
        for x in (-0.5, 0.0, 0.5):
            make.ellipsoid(0.04, make.solid_colour(1), (x * wide, tall * 0.3, front))
    elif kind == "drawers":
        count = make.integer(2, 4)
        for index in range(count):
            y = 2 * tall * (index + 0.5) / count
            panel = (wide * 0.85, tall * 0.8 / count, 0.04)
            make.box(panel, make.solid_colour(1), (0, y, front), role="decal")
            make.ellipsoid(0.035, trim, (0, y, front))
    elif kind == "dial":
        size = min(wide, tall) * 0.7
        face = {"rotation": euler_rotation(x_deg=90), "role": "decal"}
        make.frustum((0.12, size, size), make.solid_colour(4), (0, tall * 1.2, front), **face)
        make.box((0.018, size * 0.6, 0.06), trim, (0, tall * 1.2 + size * 0.3, front), role="decal")
        make.box((size * 0.45, 0.018, 0.06), trim, (size * 0.2, tall * 1.2, front), role="decal")
    else:
        make.box((0.015, tall * 0.9, 0.05), trim, (0, tall, front), role="decal")
        make.ellipsoid(0.035, trim, (0.06, tall, front), mirror=True)
        make.box(
            (wide * 0.7, tall * 0.15, 0.05),
            make.pattern(4, 0.3),
            (0, tall * 1.6, front),
            role="decal",
        )
    if make.chance(0.5):
        make.box((0.04, 0.06, 0.04), trim, (wide * 0.8, -0.04, deep * 0.7), mirror=True)
        make.box((0.04, 0.06, 0.04), trim, (wide * 0.8, -0.04, -deep * 0.7), mirror=True)
    if make.chance(0.4):
        make.box((wide * 1.06, 0.03, deep * 1.06), trim, (0, 2 * tall, 0), 0.01)

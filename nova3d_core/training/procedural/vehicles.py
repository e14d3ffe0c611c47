"""Cars, trucks, boats, planes and rockets, facing +Z."""

from __future__ import annotations

from .builder import Builder, euler_rotation
from .colour_patterns import SolidColour

TYRE, GLASS = SolidColour((0.1, 0.1, 0.11)), SolidColour((0.25, 0.38, 0.48))
LIGHT, TAIL = SolidColour((0.93, 0.9, 0.62)), SolidColour((0.75, 0.1, 0.1))
WHEEL = euler_rotation(z_deg=90)


def _wheels(make: Builder, wide: float, positions: tuple[float, ...], size: float) -> None:
    """Wheels with hubs on both sides."""
    hub = make.solid_colour(make.choice((1, 4)))
    for z in positions:
        make.frustum((0.1, size, size), TYRE, (wide, size, z), 0.02, rotation=WHEEL, mirror=True)
        centre = (wide + 0.06, size, z)
        make.frustum(
            (0.08, size * 0.5, size * 0.5), hub, centre, rotation=WHEEL, mirror=True, role="decal"
        )


def car(make: Builder) -> None:
    """A car with a cabin, windows, wheels and lights, sometimes a roof load or a spoiler."""
    wide, long, high = make.uniform(0.17, 0.22), make.uniform(0.38, 0.47), make.uniform(0.07, 0.11)
    size = make.uniform(0.08, 0.11)
    body, roof = make.pattern(0, 0.6, plain=0.5), make.solid_colour(make.choice((0, 0, 1, 4)))
    y = size + high
    make.box((wide, high, long), body, (0, y, 0), make.uniform(0.02, 0.07))
    cabin, back = make.uniform(0.17, 0.26), make.uniform(-0.16, 0.06)
    up, tall = y + high, make.uniform(0.08, 0.12)
    make.box((wide * 0.88, tall + 0.03, cabin), roof, (0, up + tall - 0.03, back), 0.06, blend=0.02)
    pane = (0.0, up + tall - 0.01, back)
    make.box((wide * 2, tall * 0.55, cabin * 0.75), GLASS, pane, role="decal")
    make.box((wide * 0.72, tall * 0.55, cabin * 2), GLASS, pane, role="decal")
    make.box((wide * 2, 0.2, cabin * 0.05), roof, pane, role="decal")
    _wheels(make, wide, (long * 0.6, -long * 0.6), size)
    make.ellipsoid(0.045, LIGHT, (wide * 0.65, y + 0.02, long), mirror=True, role="decal")
    make.ellipsoid(0.045, TAIL, (wide * 0.7, y + 0.02, -long), mirror=True, role="decal")
    make.box((wide * 0.45, 0.02, 0.05), TYRE, (0, y - 0.03, long), role="decal")
    if make.chance(0.4):
        stripe = make.solid_colour(2)
        make.box((0.05, 1.0, 1.0), stripe, (0, y, 0), role="decal")
        make.box((wide * 0.72, tall * 0.55, cabin * 2), GLASS, pane, role="decal")
    if make.chance(0.3):
        make.box((wide, 0.02, 0.05), make.solid_colour(3), (0, up + 0.08, -long * 0.9))
        make.box(
            (0.02, 0.06, 0.03),
            make.solid_colour(3),
            (wide * 0.6, up + 0.03, -long * 0.9),
            mirror=True,
        )
    elif make.chance(0.3):
        make.box(
            (wide * 0.6, 0.05, cabin * 0.6), make.pattern(2, 0.3), (0, up + 2 * tall, back), 0.01
        )


def truck(make: Builder) -> None:
    """A truck, bus, fire engine or locomotive."""
    wide, size = make.uniform(0.16, 0.21), make.uniform(0.07, 0.1)
    cab, load = make.uniform(0.1, 0.15), make.uniform(0.24, 0.32)
    tall, high = make.uniform(0.13, 0.2), make.uniform(0.1, 0.22)
    pattern, floor = make.solid_colour(0), size + 0.05
    make.box((wide * 0.9, 0.04, cab + load), make.solid_colour(3), (0, floor, 0))
    front = load
    make.box((wide, tall, cab), pattern, (0, floor + tall, front), 0.03)
    pane = (0.0, floor + tall * 1.35, front)
    make.box((wide * 0.8, tall * 0.35, cab * 2), GLASS, (*pane[:2], front + cab), role="decal")
    make.box((wide * 2, tall * 0.35, cab * 0.6), GLASS, pane, role="decal")
    make.ellipsoid(0.04, LIGHT, (wide * 0.65, floor + 0.06, front + cab), mirror=True, role="decal")
    back, kind = (0.0, floor + high + 0.02, -cab), make.choice(("box", "tank", "open", "bus"))
    cargo = make.pattern(make.choice((1, 2, 4)), 0.5, plain=0.2)
    if kind == "box":
        make.box((wide * 1.05, high + 0.06, load), cargo, (0, back[1] + 0.05, -cab), 0.01)
    elif kind == "tank":
        make.frustum(
            (load * 2, wide, wide),
            cargo,
            (0, floor + wide, -cab),
            0.05,
            rotation=euler_rotation(x_deg=90),
        )
    elif kind == "open":
        make.box((wide, high * 0.7, load), cargo, (0, floor + high * 0.7, -cab), 0.01)
        hollow = (0.0, floor + high, -cab)
        make.box(
            (wide - 0.04, high * 0.7, load - 0.04), make.solid_colour(3), hollow, role="subtract"
        )
        make.ellipsoid(
            (wide * 0.8, high, load * 0.8), make.pattern(3, 0.3), (0, floor + high * 0.3, -cab)
        )
    else:
        make.box((wide, tall, load), pattern, (0, floor + tall, -cab), 0.02)
        for index in range(4):
            z = -cab + load * (0.75 - 0.5 * index)
            make.box((1, tall * 0.3, load * 0.18), GLASS, (0, pane[1], z), role="decal")
        band = (0.0, floor + tall * 0.6, 0.0)
        make.box((1, 0.04, 1), make.solid_colour(2), band, role="decal")
    _wheels(make, wide, (front, -cab - load * 0.2, -cab - load * 0.7), size)


def boat(make: Builder) -> None:
    """A ship with a hull, and a cabin with funnels or a sail."""
    hull, long = make.pattern(0, 0.6, plain=0.5), make.uniform(0.38, 0.46)
    wide, deep = make.uniform(0.15, 0.21), make.uniform(0.16, 0.22)
    make.ellipsoid((wide, deep, long), hull, (0, deep, 0))
    make.box((1, deep * 0.6, 1), make.solid_colour(4), (0, deep * 1.6, 0), role="subtract")
    water = make.solid_colour(make.choice((1, 3)))
    make.box((1, deep * 0.25, 1), water, (0, deep * 0.25, 0), role="decal")
    if make.chance(0.5):
        mast = make.uniform(0.55, 0.75)
        make.capsule((0, deep * 0.8, 0), (0, deep + mast, 0), (0.025, 0.02), make.solid_colour(3))
        sail, top = make.pattern(4, 0.5), deep + mast * 0.55
        make.frustum((mast * 0.75, long * 0.6, 0.02), sail, (0, top, -0.1))
        for side in (-1, 1):  # cut the cone down to a sail
            make.box((0.5, 2, 1), None, (side * 0.53, deep * 1.15 + 2, 0), role="subtract")
        make.capsule((0, deep * 0.8, 0), (0, deep + mast, 0), (0.025, 0.02), make.solid_colour(3))
        return
    cabin, tall = make.pattern(make.choice((1, 4)), 0.4, plain=0.5), make.uniform(0.08, 0.14)
    make.box((wide * 0.6, tall, long * 0.45), cabin, (0, deep + tall * 0.7, -0.05), 0.02)
    make.box((1, tall * 0.25, 1), GLASS, (0, deep + tall * 1.1, 0), role="decal")
    for index in range(make.integer(1, 3)):
        centre = (0.0, deep + tall * 2.2, -0.2 + 0.14 * index)
        make.frustum((0.24, 0.055, 0.05), make.solid_colour(2), centre)
        band = (centre[0], centre[1] + 0.1, centre[2])
        make.box((0.08, 0.03, 0.06), TYRE, band, role="decal")


def plane(make: Builder) -> None:
    """An aeroplane with a fuselage, wings, a tail, and engines or a propeller."""
    body, wings = make.pattern(0, 0.6, plain=0.5), make.pattern(make.choice((1, 2)), 0.5, plain=0.5)
    thick = make.uniform(0.08, 0.12)
    make.capsule((0, 0, -0.4), (0, 0, 0.4), (thick * 0.45, thick), body)
    span, sweep = make.uniform(0.35, 0.5), make.uniform(-0.05, 0.25)
    up = make.choice((-0.04, 0.0, 0.06))
    for part in range(4):
        fraction = (part + 0.5) / 4
        centre = (span * fraction, up, 0.08 - sweep * fraction)
        chord = 0.14 * (1.15 - 0.6 * fraction)
        make.box((span / 7, 0.028, chord), wings, centre, 0.02, blend=0.02, mirror=True)
    tail = -0.42
    make.box((0.16, 0.025, 0.06), wings, (0, 0.03, tail), 0.02, blend=0.01)
    make.box((0.025, 0.12, 0.07), make.solid_colour(2), (0, 0.13, tail), 0.02, blend=0.01)
    pane = (0.0, thick * 0.8, 0.32)
    make.ellipsoid(
        (thick * 0.7, thick * 0.5, 0.12), GLASS, pane, role="decal" if make.chance(0.5) else "add"
    )
    if make.chance(0.5):
        centre = (span * 0.45, up - 0.06, 0.14 - sweep * 0.4)
        make.frustum(
            (0.2, 0.05, 0.06),
            make.solid_colour(3),
            centre,
            0.02,
            rotation=euler_rotation(x_deg=90),
            mirror=True,
        )
    else:
        make.box((0.22, 0.03, 0.025), make.solid_colour(3), (0, 0, 0.4 + thick), 0.02)
        make.ellipsoid(0.045, make.solid_colour(2), (0, 0, 0.4 + thick))
    if make.chance(0.5):
        make.box((1, 0.03, 1), make.solid_colour(4), (0, 0, 0), role="decal")


def rocket(make: Builder) -> None:
    """A standing rocket with fins and a window."""
    body, trim = make.pattern(make.choice((0, 4)), 0.6, plain=0.4), make.solid_colour(2)
    wide, tall = make.uniform(0.12, 0.2), make.uniform(0.45, 0.6)
    make.frustum((tall, wide, wide), body, (0, 0.15 + tall / 2, 0))
    make.frustum((0.3, wide, 0.02), trim, (0, 0.15 + tall + 0.14, 0), 0.02)
    make.frustum((0.12, wide * 0.9, wide * 0.6), make.solid_colour(3), (0, 0.12, 0))
    fins, size = make.integer(3, 4), make.uniform(0.12, 0.2)
    for index in range(fins):
        rotation = euler_rotation(y_deg=360 * index / fins)
        x, _, z = (float(v) for v in rotation @ (wide + size * 0.4, 0, 0))
        make.box((size * 0.7, 0.15, 0.025), trim, (x, 0.18, z), rotation=rotation)
        foot = (x * 1.15, 0.06, z * 1.15)
        make.ellipsoid(0.05, trim, foot)
    y = 0.15 + tall * make.uniform(0.6, 0.75)
    make.ellipsoid((wide * 0.5, wide * 0.5, 0.1), trim, (0, y, wide), role="decal")
    make.ellipsoid((wide * 0.34, wide * 0.34, 0.1), GLASS, (0, y, wide), role="decal")
    if make.chance(0.5):
        make.box((1, 0.04, 1), make.solid_colour(1), (0, 0.15 + tall * 0.3, 0), role="decal")

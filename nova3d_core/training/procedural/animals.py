"""Animals, facing +Z."""

from __future__ import annotations

from .builder import Builder, Point, euler_rotation
from .colour_patterns import ColourPattern
from .creatures import DARK, PALE, eyes


def quadruped(make: Builder) -> None:
    """A four-legged animal with a patterned coat, a head, ears and a tail."""
    coat = make.pattern(0, 0.8, plain=0.15)
    long, high, wide = make.uniform(0.28, 0.42), make.uniform(0.13, 0.2), make.uniform(0.12, 0.18)
    leg, thick = make.uniform(0.16, 0.4), make.uniform(0.045, 0.07)
    back, hooves = leg + high, make.solid_colour(3)
    make.ellipsoid((wide, high, long), coat, (0, back, 0))
    for z in (long * 0.62, -long * 0.62):
        foot = (wide * 0.65, thick, z + make.uniform(-0.05, 0.05))
        hip = (wide * 0.6, back - 0.02, z)
        make.capsule(foot, hip, (thick * 0.85, thick * 1.3), coat, blend=0.05, mirror=True)
        hoof = (foot[0], thick * 0.8, foot[2] + 0.02)
        make.ellipsoid((thick * 1.1, thick * 0.9, thick * 1.3), hooves, hoof, mirror=True)
    neck = make.uniform(0.05, 0.4) if make.chance(0.7) else make.uniform(0.4, 0.7)
    head = make.uniform(0.11, 0.17)
    centre = (0.0, back + neck * 0.9 + head * 0.4, long * 0.9 + neck * 0.45)
    make.capsule((0, back + 0.03, long * 0.7), centre, (high * 0.7, head * 0.75), coat, blend=0.08)
    _head(make, centre, head, coat)
    rump = (0.0, back + 0.03, -long * 0.85)
    end = (0.0, back + make.uniform(-0.25, 0.3), -long - make.uniform(0.1, 0.35))
    tail = make.solid_colour(make.choice((0, 1)))
    make.capsule(rump, end, (0.05, make.uniform(0.03, 0.08)), tail, blend=0.03)
    if make.chance(0.3):  # a saddle
        up = (0.0, back + high * 0.55, 0.0)
        make.ellipsoid((wide * 1.2, high * 0.8, long * 0.5), make.pattern(2, 0.4), up, blend=0.01)


def _head(make: Builder, centre: Point, head: float, coat: ColourPattern) -> None:
    """A head with a snout, eyes, ears and sometimes horns."""
    _, y, z = centre
    make.ellipsoid((head * 0.9, head * 0.9, head * 1.05), coat, centre, blend=0.04)
    snout = make.uniform(0.5, 1.3) * head
    tip = (0.0, y - head * 0.25, z + head * 0.7 + snout * 0.5)
    face = make.solid_colour(make.choice((0, 4)))
    make.ellipsoid((head * 0.55, head * 0.45, snout), face, tip, blend=0.04)
    nose = (0.0, tip[1] + head * 0.1, tip[2] + snout * 0.9)
    make.ellipsoid((head * 0.25, head * 0.22, head * 0.25), DARK, nose, role="decal")
    eyes(make, centre, head * 0.25, head * 0.55, head * 0.3, head * 0.65)
    ear, side = make.uniform(0.3, 1.1) * head, (head * 0.6, y + head * 0.7, z - head * 0.2)
    options = {
        "rotation": euler_rotation(z_deg=make.uniform(-60, -5)),
        "blend": 0.03,
        "mirror": True,
    }
    make.ellipsoid(
        (head * 0.28, ear, head * 0.16), make.solid_colour(make.choice((0, 1))), side, **options
    )
    if make.chance(0.25):
        root = (head * 0.3, y + head * 0.7, z)
        end = (head * 0.8, y + head * 2.0, z + head * 0.3)
        make.capsule(root, end, (0.035, 0.018), PALE, blend=0.01, mirror=True)


def bug(make: Builder) -> None:
    """A beetle, snail, turtle or caterpillar: low, with a patterned back."""
    shell, skin = make.pattern(0, 0.6, plain=0.05), make.solid_colour(make.choice((1, 3)))
    wide, long, tall = make.uniform(0.22, 0.36), make.uniform(0.3, 0.42), make.uniform(0.18, 0.3)
    make.ellipsoid((wide, tall, long), shell, (0, 0.14 + tall * 0.3, 0))
    make.ellipsoid((wide * 0.85, 0.1, long * 0.9), skin, (0, 0.12, 0))
    head = make.uniform(0.11, 0.17)
    centre = (0.0, 0.15 + make.uniform(0.0, 0.2), long + head * 0.5)
    make.capsule((0, 0.13, long * 0.6), centre, (head * 0.7, head * 0.7), skin, blend=0.04)
    make.ellipsoid(head, skin, centre, blend=0.02)
    eyes(make, centre, head * 0.28, head * 0.5, head * 0.3, head * 0.75)
    if make.chance(0.6):
        root = (head * 0.4, centre[1] + head * 0.7, centre[2])
        end = (head * 0.9, centre[1] + head * 2.1, centre[2] + 0.05)
        make.capsule(root, end, (0.025, 0.025), skin, blend=0.02, mirror=True)
        make.ellipsoid(0.045, make.solid_colour(2), end, mirror=True)
    legs = make.integer(2, 3)
    for index in range(legs):
        z = long * (0.75 - 1.5 * index / (legs - 1))
        hip, foot = (wide * 0.6, 0.13, z), (wide * 1.15, 0.05, z * 1.15)
        make.capsule(hip, foot, (0.065, 0.05), skin, blend=0.02, mirror=True)
    if make.chance(0.5):
        make.box((0.025, 1.0, long), make.solid_colour(3), (0, 0.7, 0), role="decal")


def fish(make: Builder) -> None:
    """A swimming fish, whale or shark with fins."""
    coat, fin = make.pattern(0, 0.8, plain=0.15), make.solid_colour(make.choice((1, 2)))
    long, high, wide = make.uniform(0.38, 0.45), make.uniform(0.15, 0.3), make.uniform(0.11, 0.2)
    make.ellipsoid((wide, high, long), coat, (0, 0, 0))
    if make.chance(0.5):
        belly = make.solid_colour(4)
        make.ellipsoid((wide, high * 0.8, long), belly, (0, -high * 0.6, 0), role="decal")
    spread = make.uniform(0.14, 0.26)
    root, tail = (0.0, 0.0, -long * 0.85), -long - 0.16
    for up in (-1, 1):
        make.capsule(root, (0, up * spread, tail), (0.06, 0.035), fin, blend=0.05)
    back = (0.0, high * 0.75, 0.0), (0.0, high + make.uniform(0.1, 0.2), -0.12)
    make.capsule(*back, (0.06, 0.025), fin, blend=0.06)
    side = (wide * 0.8, -high * 0.2, long * 0.3)
    end = (wide + make.uniform(0.1, 0.2), -high * 0.5, long * 0.1)
    make.capsule(side, end, (0.05, 0.03), fin, blend=0.03, mirror=True)
    eyes(make, (0, 0, 0), 0.055, wide * 0.75, high * 0.25, long * 0.7)
    mouth = (0.0, -high * 0.2, long)
    make.ellipsoid((wide * 0.6, 0.03, 0.12), DARK, mouth, role="decal")

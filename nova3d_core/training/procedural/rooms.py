"""Procedural rooms: textured walls and objects, seen by cameras inside, rendered analytically."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...cameras.cameras import Cameras
from ...cameras.pixels import pixel_centres

HALF_SIZE = (1.8, 2.4)
"""Range of half the room's width and depth, in world units."""
HALF_HEIGHT = (1.1, 1.5)
OBJECTS = (2, 5)
"""Minimum and maximum number of objects."""
OBJECT_AREA = 0.6
"""Objects stand within this distance of the room's centre."""
OBJECT_SIZE = (0.15, 0.35)
RING_RADIUS = (1.2, 1.5)
"""Range of the cameras' distance from the centre."""
ARC_DEG = (60.0, 110.0)
"""Range of the azimuths that a path covers."""
FOV_DEG = 65.0
TEXTURE_FREQUENCY = (1.5, 6.0)
"""Range of the textures' angular frequencies, in radians per world unit."""
TEXTURE_CONTRAST = 2.5
"""Steepness of the transition between a texture's two colours."""
SUPERSAMPLE = 2
"""Rays per pixel and axis."""
LIGHT = (0.35, 0.85, 0.4)
AMBIENT = 0.55


@dataclass(frozen=True, eq=False)
class Room:
    """An axis-aligned room, with boxes and spheres in it."""

    half_size: Tensor
    """(3,) half the room's width, height and depth."""
    centres: Tensor
    """(N, 3) of the objects."""
    sizes: Tensor
    """(N,) radius of a sphere, or half the side of a cube."""
    is_sphere: Tensor
    """(N,) bool."""
    colours: Tensor
    """(6 + N, 2, 3) both colours of each texture: -x, -y, -z, +x, +y, +z walls, then objects."""
    waves: Tensor
    """(6 + N, 2, 3) wave vectors of each texture's two sines."""
    phases: Tensor
    """(6 + N, 2)."""


def random_room(seed: int) -> Room:
    """The room of a seed."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
    width, depth = rng.uniform(*HALF_SIZE, 2)
    half_size = np.array([width, rng.uniform(*HALF_HEIGHT), depth])
    sizes = rng.uniform(*OBJECT_SIZE, count)
    angles, radii = (
        rng.uniform(0, 2 * math.pi, count),
        OBJECT_AREA * rng.uniform(0, 1, count) ** 0.5,
    )
    heights = rng.uniform(-0.5, 0.3, count)
    centres = np.stack([radii * np.cos(angles), heights, radii * np.sin(angles)], axis=1)
    surfaces = 6 + count
    first = rng.uniform(0.0, 1.0, (surfaces, 3))
    colours = np.stack([first, (first + 0.5) % 1.0], axis=1)  # far apart in every channel
    directions = rng.normal(size=(surfaces, 2, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    frequencies = np.exp(rng.uniform(*np.log(TEXTURE_FREQUENCY), (surfaces, 2, 1)))
    return Room(
        *(torch.from_numpy(np.asarray(value)).float() for value in (half_size, centres, sizes)),
        torch.from_numpy(rng.random(count) < 0.5),
        torch.from_numpy(colours).float(),
        torch.from_numpy(directions * frequencies).float(),
        torch.from_numpy(rng.uniform(0, 2 * math.pi, (surfaces, 2))).float(),
    )


def room_cameras(seed: int, views: int, size_px: int) -> Cameras:
    """A smooth path of cameras inside the room, on an arc around its centre."""
    rng = np.random.default_rng([seed, 1])
    steps = np.linspace(-0.5, 0.5, views) if views > 1 else np.zeros(1)
    azimuth = rng.uniform(0, 2 * math.pi) + np.radians(rng.uniform(*ARC_DEG)) * steps
    radius = rng.uniform(*RING_RADIUS) + rng.uniform(-0.2, 0.2) * steps
    height = rng.uniform(-0.1, 0.4) + rng.uniform(-0.5, 0.5) * steps
    positions = np.stack([radius * np.sin(azimuth), height, radius * np.cos(azimuth)], axis=1)
    target = rng.uniform(-0.2, 0.2, 3)
    forward = target - positions
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    rotation = np.stack([right, np.cross(forward, right), forward], axis=1)  # (V, 3, 3)
    poses = np.tile(np.eye(4), (views, 1, 1))
    poses[:, :3, :3] = rotation
    poses[:, :3, 3] = -(rotation @ positions[..., None])[..., 0]
    focal = 0.5 * size_px / math.tan(math.radians(FOV_DEG) / 2)
    lens = torch.tensor([[focal, 0, size_px / 2], [0, focal, size_px / 2], [0, 0, 1.0]])
    return Cameras(
        torch.from_numpy(poses).float(), lens.expand(views, 3, 3).clone(), size_px, size_px
    )


def render_room(room: Room, cameras: Cameras) -> Tensor:
    """Images (V, H, W, 3) in 0..1 of a room."""
    images = [_render_view(room, cameras[view]) for view in range(len(cameras))]
    return torch.stack(images)


def _render_view(room: Room, camera: Cameras) -> Tensor:
    """(H, W, 3), averaged over the rays of each pixel."""
    height, width = SUPERSAMPLE * camera.height, SUPERSAMPLE * camera.width
    fine = camera.resized(width, height)
    pixels = pixel_centres(height, width).reshape(-1, 2)
    lens, rotation = fine.intrinsics[0], fine.rotation[0]
    plane = (pixels - lens[:2, 2]) / lens.diagonal()[:2]
    directions = functional.normalize(
        torch.cat([plane, torch.ones(len(plane), 1)], dim=1) @ rotation, dim=1
    )
    colour = _trace(room, fine.positions[0], directions).reshape(height, width, 3)
    blocks = colour.unflatten(0, (-1, SUPERSAMPLE)).unflatten(2, (-1, SUPERSAMPLE))
    return blocks.mean(dim=(1, 3))


def _trace(room: Room, origin: Tensor, directions: Tensor) -> Tensor:
    """Colours (R, 3) of rays from one point inside the room."""
    safe = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    walls = (room.half_size * safe.sign() - origin) / safe  # (R, 3) exits along each axis
    depth, axis = walls.min(dim=1)
    is_positive = directions.gather(1, axis[:, None])[:, 0] > 0
    surface = axis + 3 * is_positive  # (R,)
    normal = -functional.one_hot(axis, 3).float() * directions.sign()
    for index in range(len(room.centres)):
        hit = _hit_sphere if bool(room.is_sphere[index]) else _hit_cube
        found, found_normal = hit(room.centres[index], room.sizes[index], origin, safe)
        nearer = found < depth
        depth = torch.where(nearer, found, depth)
        surface = torch.where(nearer, 6 + index, surface)
        normal = torch.where(nearer[:, None], found_normal, normal)
    points = origin + depth[:, None] * directions
    light = functional.normalize(torch.tensor(LIGHT), dim=0)
    shade = AMBIENT + (1.0 - AMBIENT) * (0.5 + 0.5 * (normal @ light))
    return _texture(room, surface, points) * shade[:, None]


def _texture(room: Room, surface: Tensor, points: Tensor) -> Tensor:
    """Colours (R, 3): the sum of two sines of the position blends the surface's two colours."""
    angles = (room.waves[surface] * points[:, None]).sum(dim=-1) + room.phases[surface]
    blend = torch.sigmoid(TEXTURE_CONTRAST * angles.sin().sum(dim=-1, keepdim=True))
    first, second = room.colours[surface].unbind(dim=1)
    return first + blend * (second - first)


def _hit_sphere(
    centre: Tensor, radius: Tensor, origin: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """Depths (R,), infinite for misses, and normals (R, 3)."""
    offset = origin - centre
    along = directions @ offset
    discriminant = along**2 - (offset @ offset - radius**2)
    depth = -along - discriminant.clamp_min(0.0).sqrt()
    depth = torch.where((discriminant > 0) & (depth > 0), depth, torch.inf)
    points = offset + depth.nan_to_num(posinf=0.0)[:, None] * directions
    return depth, functional.normalize(points, dim=1)


def _hit_cube(
    centre: Tensor, half_side: Tensor, origin: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """Depths (R,), infinite for misses, and normals (R, 3)."""
    offset = centre - origin
    entries = (offset - half_side * directions.sign()) / directions
    exits = (offset + half_side * directions.sign()) / directions
    depth, axis = entries.max(dim=1)
    hit = (depth < exits.amin(dim=1)) & (depth > 0)
    normal = -functional.one_hot(axis, 3).float() * directions.sign()
    return torch.where(hit, depth, torch.inf), normal

"""The benchmark's conditions: views of a mesh with known wrong poses and known contradictions.

The truth stays known: the poses that the images were taken from, and where colours and normals
were changed.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..rendering.config import RenderConfig
from ..rendering.views import render_views
from ..views import Views
from .config import ConditionConfig

POSE_STREAM, GAIN_STREAM, BLOB_STREAM = 1, 2, 3
SOFT_EDGE = 0.3
"""Half the width of a blob's edge, over its radius."""
PAINT = 0.85
"""How much of the paint's colour covers a blob's middle."""
FAR_HUES = 3
"""The paint is one of the six pure hues that are farthest from what it covers, of so many."""


@dataclass(frozen=True, eq=False)
class ConditionedViews:
    """What a method gets to see, and the truth about it."""

    views: Views
    """The images with the poses that they claim to have."""
    true_cameras: Cameras
    """The poses that they were taken from."""
    blob_masks: Tensor
    """(V, H, W) bool: where a view was repainted; nowhere in clean and noisy views."""


def make_condition(
    mesh: Mesh,
    cameras: Cameras,
    config: ConditionConfig | None = None,
    progress: Progress = SILENT,
) -> ConditionedViews:
    """Renders a mesh under one of the benchmark's conditions; the same seed repeats bit for bit.

    View 0 is exact under every condition. Noise moves the cameras that take the images, never
    those that go with them. Conflict changes colours and normals on the object, never masks nor
    background; poses, gains and blobs draw from streams of their own, so "noisy+conflict" has the
    poses of "noisy".

    Args:
        mesh: in the world, about its centre; usually normalised.
        cameras: V ideal poses.
        config: which condition, and how strong.
        progress: told about each view rendered.

    Raises:
        Cancelled: if so asked.
    """
    config = config or ConditionConfig()
    cameras = cameras.to("cpu")
    true_cameras = cameras
    if config.has_pose_noise:
        low, high = mesh.bounds
        true_cameras = noisy_cameras(cameras, config, float((high - low).max()))
    views = render_views(mesh, true_cameras, RenderConfig(config.supersample), progress).views
    blob_masks = torch.zeros(views.colour.shape[:3], dtype=torch.bool)
    if config.has_conflict:
        views = _with_gains(views, config)
        views, blob_masks = _with_blobs(views, config, progress)
    if config.normals_in_wrong_camera:
        views = views.with_normals_in("camera")
    return ConditionedViews(replace(views, cameras=cameras), true_cameras, blob_masks)


def noisy_cameras(cameras: Cameras, config: ConditionConfig, longest_side: float = 1.0) -> Cameras:
    """Cameras turned about the world's origin and shifted along their own x and y, but view 0.

    Args:
        cameras: V ideal poses.
        config: spreads and seed.
        longest_side: of the object, in world units: the measure of the shifts.
    """
    random = _stream(config, POSE_STREAM)
    poses = cameras.world_to_camera.clone()
    for view in range(1, len(cameras)):
        turn = np.eye(4)
        turn[:3, :3] = rotation_matrix(random.normal(0.0, 1.0, 3) * config.rotation_sigma_rad)
        shift = np.eye(4)
        shift[:2, 3] = random.normal(0.0, 1.0, 2) * config.shift_sigma * longest_side
        ideal = cameras.world_to_camera[view].double().numpy()
        poses[view] = torch.from_numpy(shift @ ideal @ turn)
    return replace(cameras, world_to_camera=poses)


def rotation_matrix(axis_angle: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) about an axis (3,) by its length in radians."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(axis_angle).as_matrix()


def _with_gains(views: Views, config: ConditionConfig) -> Views:
    """Multiplies each view's colour channels by gains of its own, on the object only."""
    random = _stream(config, GAIN_STREAM)
    spread = config.gain_range
    gains = torch.from_numpy(random.uniform(1 - spread, 1 + spread, (len(views), 3))).float()
    gains[0] = 1.0
    white = 1.0 - views.masks[..., None]  # the share of a pixel that is background
    object_part = (views.colour - white).clamp_min(0.0)
    changed = (gains[:, None, None] * object_part + white).clamp(0.0, 1.0)
    on_object = views.masks[..., None] > 0
    on_object[0] = False
    return replace(views, colour=torch.where(on_object, changed, views.colour))


def _with_blobs(views: Views, config: ConditionConfig, progress: Progress) -> tuple[Views, Tensor]:
    """Repaints a blob in some views and turns its normals: the views, and where (V, H, W) bool."""
    random = _stream(config, BLOB_STREAM)
    count = min(config.blob_views, len(views) - 1)
    chosen = np.sort(random.choice(np.arange(1, len(views)), count, replace=False))
    colour, normals = views.colour.clone(), views.normals.clone()
    where = torch.zeros(views.colour.shape[:3], dtype=torch.bool)
    for view in progress.track(chosen.tolist(), "painting blobs", count):
        weight = _blob_weight(views.masks[view].numpy(), config.blob_share, random)
        paint = torch.tensor(_paint(colour[view][weight > 0.5].numpy(), random))
        axis = random.normal(0.0, 1.0, 3)
        turn = math.radians(config.blob_turn_deg) * axis / np.linalg.norm(axis)
        soft = torch.from_numpy(weight).float() * PAINT * views.masks[view]  # (H, W)
        colour[view] = torch.lerp(colour[view], paint, soft[..., None])
        normals[view] = _turned(normals[view], turn, weight)
        where[view] = torch.from_numpy(weight > 0.5)
    return replace(views, colour=colour, normals=normals), where


def _blob_weight(mask: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Weights (H, W) of a soft blob inside a mask (H, W): 1 in the middle, 0.5 at its rim.

    The blob is the share of foreground pixels that are nearest to a random place. The place lies
    deep enough inside the object for a round blob where there is such a place.
    """
    from scipy.ndimage import distance_transform_edt

    foreground = mask > 0.5
    area = int(foreground.sum())
    if area == 0:
        return np.zeros(mask.shape)
    wanted = max(round(share * area), 1)
    depth = distance_transform_edt(np.pad(foreground, 1))[1:-1, 1:-1]  # the frame's edge counts
    radius = math.sqrt(wanted / math.pi) * (1 + SOFT_EDGE)
    y, x = np.nonzero(depth >= min(radius, 0.8 * depth.max()))
    pick = random.integers(len(y))
    # a place between pixel centres has all pixels at different distances: the share is exact
    beside = random.uniform(-0.5, 0.5, 2)
    rows, columns = np.indices(mask.shape)
    distance = np.hypot(rows - y[pick] - beside[0], columns - x[pick] - beside[1])
    rim = np.partition(distance[foreground], wanted - 1)[wanted - 1] + 1e-9
    into = (1.0 - distance / rim) / SOFT_EDGE  # 0 at the rim, 1 where the edge ends inside
    smooth = np.clip(0.5 * (into + 1.0), 0.0, 1.0)
    return np.where(foreground, smooth * smooth * (3.0 - 2.0 * smooth), 0.0)


def _paint(covered: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A pure colour (3,) far from the mean of what it covers (P, 3)."""
    mean = covered.mean(axis=0) if len(covered) else np.full(3, 0.5)
    hues = np.array([colorsys.hsv_to_rgb(i / 6, 0.9, 0.9) for i in range(6)], dtype=np.float32)
    farthest = np.argsort(-np.linalg.norm(hues - mean, axis=1))[:FAR_HUES]
    return hues[random.choice(farthest)]


def _turned(normals: Tensor, turn: np.ndarray, weight: np.ndarray) -> Tensor:
    """Normals (H, W, 3) turned about `turn`, by its length in radians times `weight` (H, W)."""
    from scipy.spatial.transform import Rotation

    touched = torch.from_numpy(weight > 0) & (normals.norm(dim=-1) > 0.5)
    angles = torch.from_numpy(weight)[touched].numpy()[:, None] * turn  # (P, 3)
    turned = Rotation.from_rotvec(angles).apply(normals[touched].double().numpy())
    result = normals.clone()
    result[touched] = torch.from_numpy(turned).float()
    return result


def _stream(config: ConditionConfig, stream: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, stream])

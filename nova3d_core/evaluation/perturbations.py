"""Perturbations of exact views: pose noise, inconsistencies between views, smooth distortions.

The ground truth is kept: the true poses of the images, the regions whose colours and normals were
changed, and the displacements of the pixels.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..cameras.cameras import Cameras, orbit_cameras
from ..cameras.orbits import focal_for_fov
from ..cameras.rigs import RigConfig
from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..rendering.config import RenderConfig
from ..rendering.views import render_views
from ..views import Views
from .config import Perturbation, PerturbationConfig
from .distortions import DistortionConfig, distort_views

POSE_STREAM, GAIN_STREAM, BLOB_STREAM = 1, 2, 3
SOFT_EDGE = 0.3
"""Half the width of a blob's soft edge, relative to its radius."""
BLOB_OPACITY = 0.85
"""At the blob's centre."""
DISTORTIONS = {"generated": DistortionConfig(), "generated_fine": DistortionConfig(9, 1.0)}
"""Displacements of the pixels; no setting of the fusion was chosen with generated_fine."""
RIGS = {
    "orbit576": RigConfig(
        count=21,
        elevation_deg=10.0,
        radius=2.0,
        focal_per_width=focal_for_fov(33.8),
        width_px=576,
        height_px=576,
    )
}
"""Rigs of the perturbations that do not use the default one; orbit576: SV3D's lens and distance."""
HUE_CANDIDATES = 3
"""The blob's colour is drawn from this many of the six pure hues, those farthest from the covered
colour."""


@dataclass(frozen=True, eq=False)
class PerturbedViews:
    """Perturbed views and their ground truth."""

    views: Views
    """Input of a method: images with their stated poses."""
    true_cameras: Cameras
    """True poses of the images."""
    blob_masks: Tensor
    """(V, H, W) bool: regions with changed appearance; empty without blobs."""
    displacement_px: Tensor | None = None
    """(V, H, W, 2) displacements x, y of the pixels of distorted views; None for others."""


def perturbation_cameras(kind: Perturbation) -> Cameras:
    """Ideal poses of a perturbation: 16 views at elevation 0, unless `RIGS` has others."""
    return orbit_cameras(RIGS.get(kind))


def render_perturbed_views(
    mesh: Mesh,
    cameras: Cameras,
    config: PerturbationConfig | None = None,
    progress: Progress = SILENT,
) -> PerturbedViews:
    """Renders a mesh with perturbed poses or appearance; the same seed repeats bit for bit.

    View 0 is always exact. Pose noise moves the cameras that render the images, never the stated
    ones. Conflict changes colours and normals on the object, never masks or background. Poses,
    gains, blobs and distortions use independent random streams, so "noisy+conflict" has the poses
    of "noisy". Distortions (see `distort_views`) displace masks, too.

    Args:
        mesh: centred at the world origin, usually normalised.
        cameras: V ideal poses.
        config: kind and strength of the perturbation.
        progress: receives each rendered view.

    Raises:
        Cancelled: cancelled through `progress`.
    """
    config = config or PerturbationConfig()
    cameras = cameras.to("cpu")
    true_cameras = cameras
    if config.perturbs_poses:
        low, high = mesh.bounds
        true_cameras = noisy_cameras(cameras, config, float((high - low).max()))
    views = render_views(mesh, true_cameras, RenderConfig(config.supersample), progress).views
    blob_masks = torch.zeros(views.colour.shape[:3], dtype=torch.bool)
    if config.perturbs_appearance:
        views = _with_gains(views, config)
        views, blob_masks = _with_blobs(views, config, progress)
    displacement = None
    if config.distorts:
        distorted = distort_views(views, DISTORTIONS[config.kind], config.seed)
        views, displacement = distorted.views, distorted.displacement_px
    if not config.with_normals:
        views = views.without_normals()
    if config.camera_frame_normals:
        views = views.with_normals_in("camera")
    return PerturbedViews(replace(views, cameras=cameras), true_cameras, blob_masks, displacement)


def noisy_cameras(
    cameras: Cameras, config: PerturbationConfig, longest_side: float = 1.0
) -> Cameras:
    """Cameras rotated about the world origin and translated along their own x and y, except view 0.

    Args:
        cameras: V ideal poses.
        config: standard deviations and seed.
        longest_side: of the object in world units, the unit of the translations.
    """
    random = _stream(config, POSE_STREAM)
    poses = cameras.world_to_camera.clone()
    for view in range(1, len(cameras)):
        rotation = np.eye(4)
        rotation[:3, :3] = rotation_matrix(random.normal(0.0, 1.0, 3) * config.rotation_sigma_rad)
        translation = np.eye(4)
        translation[:2, 3] = random.normal(0.0, 1.0, 2) * config.translation_sigma * longest_side
        ideal = cameras.world_to_camera[view].double().numpy()
        poses[view] = torch.from_numpy(translation @ ideal @ rotation)
    return replace(cameras, world_to_camera=poses)


def rotation_matrix(axis_angle: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of an axis-angle vector (3,) in radians."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(axis_angle).as_matrix()


def _with_gains(views: Views, config: PerturbationConfig) -> Views:
    """Scales each view's colour channels by random gains, on the object only."""
    random = _stream(config, GAIN_STREAM)
    spread = config.gain_range
    gains = torch.from_numpy(random.uniform(1 - spread, 1 + spread, (len(views), 3))).float()
    gains[0] = 1.0
    white = 1.0 - views.masks[..., None]  # background fraction of each pixel
    object_part = (views.colour - white).clamp_min(0.0)
    changed = (gains[:, None, None] * object_part + white).clamp(0.0, 1.0)
    on_object = views.masks[..., None] > 0
    on_object[0] = False
    return replace(views, colour=torch.where(on_object, changed, views.colour))


def _with_blobs(
    views: Views, config: PerturbationConfig, progress: Progress
) -> tuple[Views, Tensor]:
    """Adds a blob of wrong colour and rotated normals to some views; also returns the blob masks
    (V, H, W) bool."""
    random = _stream(config, BLOB_STREAM)
    count = min(config.blob_views, len(views) - 1)
    selected = np.sort(random.choice(np.arange(1, len(views)), count, replace=False))
    colour, normals = views.colour.clone(), views.normals.clone()
    blob_masks = torch.zeros(views.colour.shape[:3], dtype=torch.bool)
    for view in progress.track(selected.tolist(), "adding blobs", count):
        weight = _blob_weight(views.masks[view].numpy(), config.blob_area_ratio, random)
        blob_colour = torch.tensor(_blob_colour(colour[view][weight > 0.5].numpy(), random))
        axis = random.normal(0.0, 1.0, 3)
        axis_angle = math.radians(config.blob_rotation_deg) * axis / np.linalg.norm(axis)
        alpha = torch.from_numpy(weight).float() * BLOB_OPACITY * views.masks[view]  # (H, W)
        colour[view] = torch.lerp(colour[view], blob_colour, alpha[..., None])
        normals[view] = _rotate_normals(normals[view], axis_angle, weight)
        blob_masks[view] = torch.from_numpy(weight > 0.5)
    return replace(views, colour=colour, normals=normals), blob_masks


def _blob_weight(mask: np.ndarray, area_ratio: float, random: np.random.Generator) -> np.ndarray:
    """Weights (H, W) of a soft blob inside a mask (H, W): 1 at the centre, 0.5 at the rim.

    The blob consists of the foreground pixels nearest to a random centre, which lies deep enough
    inside the object for a round blob if possible.
    """
    from scipy.ndimage import distance_transform_edt

    foreground = mask > 0.5
    area = int(foreground.sum())
    if area == 0:
        return np.zeros(mask.shape)
    blob_area = max(round(area_ratio * area), 1)
    depth = distance_transform_edt(np.pad(foreground, 1))[1:-1, 1:-1]  # image border included
    radius = math.sqrt(blob_area / math.pi) * (1 + SOFT_EDGE)
    y, x = np.nonzero(depth >= min(radius, 0.8 * depth.max()))
    pick = random.integers(len(y))
    # a sub-pixel offset makes all distances different, so that the area is exact
    offset = random.uniform(-0.5, 0.5, 2)
    rows, columns = np.indices(mask.shape)
    distance = np.hypot(rows - y[pick] - offset[0], columns - x[pick] - offset[1])
    rim = np.partition(distance[foreground], blob_area - 1)[blob_area - 1] + 1e-9
    inward = (1.0 - distance / rim) / SOFT_EDGE  # 0 at the rim, 1 at the inner end of the edge
    smooth = np.clip(0.5 * (inward + 1.0), 0.0, 1.0)
    return np.where(foreground, smooth * smooth * (3.0 - 2.0 * smooth), 0.0)


def _blob_colour(covered: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A saturated colour (3,) far from the mean of the covered pixels (P, 3)."""
    mean = covered.mean(axis=0) if len(covered) else np.full(3, 0.5)
    hues = np.array([colorsys.hsv_to_rgb(i / 6, 0.9, 0.9) for i in range(6)], dtype=np.float32)
    farthest = np.argsort(-np.linalg.norm(hues - mean, axis=1))[:HUE_CANDIDATES]
    return hues[random.choice(farthest)]


def _rotate_normals(normals: Tensor, axis_angle: np.ndarray, weight: np.ndarray) -> Tensor:
    """Normals (H, W, 3) rotated by an axis-angle vector in radians scaled with `weight` (H, W)."""
    from scipy.spatial.transform import Rotation

    affected = torch.from_numpy(weight > 0) & (normals.norm(dim=-1) > 0.5)
    rotations = torch.from_numpy(weight)[affected].numpy()[:, None] * axis_angle  # (P, 3)
    rotated = Rotation.from_rotvec(rotations).apply(normals[affected].double().numpy())
    result = normals.clone()
    result[affected] = torch.from_numpy(rotated).float()
    return result


def _stream(config: PerturbationConfig, stream: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, stream])

"""Samples views of a scene along a camera path."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...cameras.join import SAME_POSITION, cameras_to_origin, equal_poses
from ...compute.host_memory import available_bytes, check_memory
from ...errors import InputError
from ...progress import SILENT, Progress, ProgressEvent
from ...views import Views
from ..model import OneDevice, Placement
from ..sampling.config import SampleConfig
from ..sampling.pipeline import (
    DECODING,
    SAMPLING,
    NoiseInputs,
    check_size_px,
    decode_latents,
    draw_noise_inputs,
    sample_latents,
)
from .conditioning import (
    EncodedSources,
    encode_sources,
    image_latent,
    level_trajectory,
    render_features,
    scene_conditioning,
)
from .model import SceneModel
from .poses import SceneFrame, check_perspective, scene_frame, square_cameras, square_views

SAMPLING_PATH = "sampling the path"
FLOAT32_EPS = 4 * torch.finfo(torch.float32).eps
"""Rounding errors of positions, as a fraction of the largest coordinate."""
EQUAL_IMAGE = 1e-3
"""Mean difference below which two images are the same."""
BYTES_PER_PIXEL = 4 * 3 * 3
"""Peak memory of a generated pixel: the image, its windows, and the bundle of views."""


@dataclass(frozen=True, eq=False)
class PathSample:
    """Views along a path."""

    views: Views
    """P views, in the order of the path, at the model's size."""
    coarse: Tensor
    """(P, h, w, 3) colours of the PixelNeRF conditioner at the latents' size, in 0..1."""


@dataclass(frozen=True)
class Window:
    """Views that are sampled together: one of a source, then cameras of the path."""

    anchor: int
    """Index of the source whose camera is the first view, as in training."""
    path: tuple[int, ...]
    """Indices of the path's cameras; padded to the number of views of the training."""
    kept: int
    """How many of them are new; the rest is padding."""


def sample_path(
    model: SceneModel,
    sources: Views,
    cameras: Cameras,
    config: SampleConfig | None = None,
    placement: Placement | None = None,
    progress: Progress = SILENT,
) -> PathSample:
    """Generates views of a scene at the cameras of a path.

    The path is divided into windows of the number of views that the model was trained with. Each
    starts at the source nearest to its first camera; the last generated view of a window is one
    more source of the next.

    Args:
        model: a loaded model; it is not modified.
        sources: posed images of the scene, usually 1 to 4; the central square of each is used.
        cameras: perspective cameras in the world of the sources; the views show the central square
            of their images.
        config: seed, steps, guidance, size; what concerns the input image's object is ignored.
        placement: device and dtype of the model's parts; all on the CPU if None.
        progress: receives each step, with previews while sampling.

    Returns:
        P views, as many as the path has cameras.

    Raises:
        InputError: no sources or cameras, cameras that are not perspective, different images with
            the same pose, an unusable size, or more views than fit into memory.
        StageError: the model returned NaN or infinite values, in float32 too.
        Cancelled: the user cancelled.
    """
    config = config or SampleConfig()
    placement = placement or OneDevice(model, torch.device("cpu"))
    size_px = check_size_px(model, config.size_px or model.family.size_px)
    check_inputs(sources, cameras, size_px)
    path = square_cameras(cameras_to_origin(cameras, sources.cameras.origin), size_px)
    known = square_views(sources, size_px)
    frame = scene_frame([sources.cameras, path])
    windows = plan_windows(known.cameras, path, model.family.views, frame)
    noise = draw_noise_inputs(model, size_px, config.seed)
    images, coarse = [], []
    for index, window in enumerate(windows):
        part = _window_progress(progress, index, len(windows))
        if index == 0:
            given = encoded = encode_sources(model, known, frame, placement, part)
        else:
            last = Views(path[window.path[0] - 1], images[-1][-1:])
            given = encoded.joined(encode_sources(model, last, frame, placement, part))
            latents = torch.randn(noise.latents.shape, generator=noise.generator)
            noise = replace(noise, latents=latents)  # other noise for each window
        given = given.with_first(window.anchor)
        targets = _join(known.cameras[window.anchor], path[list(window.path)])
        generated, rgb = _sample_window(
            model, given, targets, frame, config, noise, placement, part
        )
        images.append(generated[1 : 1 + window.kept])
        coarse.append(rgb[1 : 1 + window.kept])
    return PathSample(Views(path, torch.cat(images)), torch.cat(coarse))


def check_inputs(sources: Views, cameras: Cameras, size_px: int) -> None:
    """Raises InputError for sources or a path that no scene model can use; see `sample_path`."""
    if len(cameras) == 0:
        raise InputError("the path has no cameras.", "Give at least one camera.")
    if len(sources) == 0:
        raise InputError("there are no source views.", "Give 1 to 4 posed images of the scene.")
    check_perspective(sources.cameras, "the sources")
    check_perspective(cameras, "the path")
    same = _same_pose(sources)
    if same is not None:
        raise InputError(
            f"sources {same[0]} and {same[1]} are different images with the same camera: their "
            "poses are unknown or wrong.",
            "Give each image its own pose, for example from COLMAP.",
        )
    needed = BYTES_PER_PIXEL * len(cameras) * size_px**2
    check_memory(
        f"a path of {len(cameras)} views of {size_px} px",
        needed,
        available_bytes(),
        "Use fewer cameras or a smaller size.",
    )


def plan_windows(
    sources: Cameras, path: Cameras, views: int, frame: SceneFrame
) -> tuple[Window, ...]:
    """Divides a path into windows of equal length, each of `views` views with its source.

    Short windows are padded by going back along the path, as V3D pads short clips in training.
    """
    count = math.ceil(len(path) / max(views - 1, 1))
    bounds = [round(index * len(path) / count) for index in range(count + 1)]
    windows = []
    for start, end in pairwise(bounds):
        padded = [start + _reflect(index, end - start) for index in range(max(views - 1, 1))]
        anchor = nearest_source(sources, path[start], frame)
        windows.append(Window(anchor, tuple(padded), end - start))
    return tuple(windows)


def _reflect(index: int, count: int) -> int:
    """Position of an index on a path of `count` cameras that is followed back and forth."""
    if count == 1:
        return 0
    index %= 2 * (count - 1)
    return min(index, 2 * (count - 1) - index)


def nearest_source(sources: Cameras, camera: Cameras, frame: SceneFrame) -> int:
    """The source most similar to a camera: in position, normalised, plus 1 - cos of the angle."""
    distance = (sources.positions - camera.positions).norm(dim=1) * frame.scale
    cosine = (sources.view_directions * camera.view_directions).sum(dim=1)
    return int((distance + 1.0 - cosine).argmin())


def _sample_window(
    model: SceneModel,
    encoded: EncodedSources,
    targets: Cameras,
    frame: SceneFrame,
    config: SampleConfig,
    noise: NoiseInputs,
    placement: Placement,
    progress: Progress,
) -> tuple[Tensor, Tensor]:
    """Images (V, S, S, 3) and coarse colours (V, h, w, 3) of one window."""
    with torch.no_grad():
        poses = frame.poses(targets)
        rgb, features = render_features(model, encoded, poses, config, placement, progress)
        latent = image_latent(model, encoded.signed[0], noise.augmentation, placement)
        conditioning = scene_conditioning(model, encoded, latent, features)
        trajectory = level_trajectory(targets, len(targets))
        latents = sample_latents(
            model, conditioning, trajectory, noise.latents, config, placement, progress
        )
        images = decode_latents(model, latents, config, placement, progress)
    return images[0], rgb[0].movedim(1, -1)


def _window_progress(progress: Progress, index: int, count: int) -> Progress:
    """Progress of one of several windows, reported as one stage without restarts."""
    if count == 1:
        return progress

    def report(event: ProgressEvent) -> None:
        parts = {SAMPLING: event.step / event.total, DECODING: 1.0}
        done = index + parts.get(event.stage, 0.0)
        progress.update(SAMPLING_PATH, round(100 * done), 100 * count, event.preview)

    return progress.with_reports(report, SAMPLING_PATH)


def _same_pose(sources: Views) -> tuple[int, int] | None:
    """Two sources with equal poses but different images, if there are any."""
    positions = sources.cameras.positions.double()
    # of their extent, not of their distance from the origin, which means nothing
    extent = float((positions - positions.mean(dim=0)).norm(dim=1).max())
    tolerance = max(SAME_POSITION * extent, FLOAT32_EPS * float(positions.abs().max()))
    for first, second in equal_poses(sources.cameras, tolerance):
        difference = (sources.colour[first] - sources.colour[second]).abs().mean()
        if float(difference) > EQUAL_IMAGE:
            return first, second
    return None


def _join(first: Cameras, second: Cameras) -> Cameras:
    """Cameras of the same size and world, one after the other."""
    return replace(
        first,
        world_to_camera=torch.cat([first.world_to_camera, second.world_to_camera]),
        intrinsics=torch.cat([first.intrinsics, second.intrinsics]),
    )

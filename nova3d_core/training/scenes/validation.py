"""Validation of scenes: views of held-out clips between their sources, against the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ...diffusion.model import Placement
from ...diffusion.sampling.config import SampleConfig
from ...diffusion.scenes.model import SceneModel
from ...diffusion.scenes.sample import sample_path
from ...evaluation.metrics.image import mean_metrics, psnr
from ...progress import SILENT, Progress
from ...views import Views
from ..config import TrainConfig
from ..data.stream import object_seed
from ..validation import Measured, ValidationResult, ValidationSample, validate_each
from .data import SceneFolders, room_views

HELD_OUT_SEED = 2**31 + 2
"""Seed of procedural validation rooms; above all seeds of runs."""
SOURCES = 3
"""Sources of a validation clip: the first, the last and one in the middle."""


@dataclass(frozen=True, eq=False)
class SceneSample(ValidationSample):
    """A held-out clip; `colour` has the views between the sources, `normal` and `mask` none."""

    views: Views | None = field(default=None, kw_only=True)
    """All views of the clip."""


def source_indices(views: int) -> list[int]:
    """The sources among V views of a clip: evenly spaced, fewer in short clips."""
    count = min(SOURCES, max(views - 1, 1))
    return sorted({round(index * (views - 1) / max(count - 1, 1)) for index in range(count)})


def path_indices(views: int) -> list[int]:
    """The other views of a clip."""
    sources = source_indices(views)
    return [index for index in range(views) if index not in sources]


def scene_sample(views: Views, key: str) -> SceneSample:
    """A validation sample of a clip."""
    targets = views.colour[path_indices(len(views))]
    empty = torch.zeros(0, *views.colour.shape[1:])
    return SceneSample(targets, empty, empty[..., 0], key, views=views)


def held_out_clips(config: TrainConfig, count: int) -> Sequence[SceneSample]:
    """Clips that are never trained on, always the same.

    Args:
        config: settings of the run; `data.held_out` are folders of posed images, procedural rooms
            if empty.
        count: maximum number of clips.
    """
    size_px, views = config.data.size_px, config.scene.views
    if config.data.held_out and count:
        folders = SceneFolders(config.data.held_out, 0, size_px, views)
        clips = (folders.clip_views(number) for number in range(min(count, len(folders.folders))))
        return [scene_sample(clip, key) for clip, key in clips]
    seeds = (object_seed(HELD_OUT_SEED, number) for number in range(count))
    return [scene_sample(room_views(seed, views, size_px), f"room-{seed}") for seed in seeds]


def validate_scenes(
    model: SceneModel,
    samples: Sequence[SceneSample],
    placement: Placement,
    steps: int | None = None,
    progress: Progress = SILENT,
) -> ValidationResult:
    """Generates the views between the sources of each clip, always with the same noise.

    Arguments as in `training.validation.validate`; the metric is the PSNR of these views.
    """

    def measure(seed: int, sample: SceneSample, quiet: Progress) -> Measured:
        views = sample.views
        sources = views[source_indices(len(views))]
        path = views.cameras[path_indices(len(views))]
        config = SampleConfig(seed=seed, steps=steps)
        images = sample_path(model, sources, path, config, placement, quiet).views.colour
        pairs = zip(images, sample.colour, strict=True)
        return images[None], mean_metrics([{"psnr": psnr(one, true)} for one, true in pairs])

    return validate_each(samples, measure, progress)

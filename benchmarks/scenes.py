"""Views along a camera path: a small model for scenes, trained here on procedural rooms.

    python dev.py bench scenes [--run RUNS/SCENES] [--train-steps N] [--model FILE] [--rooms 12]

Trains the preset v3d_scenes_mini, or resumes or reuses its run. Views of held-out rooms are then
generated from 3 sources with their true poses, and from the same sources whose poses are exchanged
cyclically among them. The difference is what the model gains from the poses.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from measure import machine
from results import ResultPage, Table, markdown_page, save_page

from nova3d_core.diffusion.families import GuidanceConfig
from nova3d_core.diffusion.sampling.config import SampleConfig
from nova3d_core.diffusion.scenes.model import SceneModel
from nova3d_core.diffusion.scenes.sample import sample_path
from nova3d_core.evaluation.metrics.image import psnr
from nova3d_core.io.images.images import write_image
from nova3d_core.training.data.stream import object_seed
from nova3d_core.training.export import load_trained
from nova3d_core.training.presets import read_train_config
from nova3d_core.training.runs import train
from nova3d_core.training.scenes.data import room_views
from nova3d_core.training.scenes.validation import HELD_OUT_SEED
from nova3d_core.views import Views
from nova3d_core.weights.load import load_model

PRESET = "v3d_scenes_mini"
VIEWS = 9
"""Views of a held-out path; the first, the middle and the last are the sources."""
SOURCES = (0, 4, 8)
TARGET_GAIN_DB = 3.0
GUIDANCE = GuidanceConfig("constant", 1.0, 1.0)


@dataclass(frozen=True)
class SceneBenchmark:
    """Settings of the benchmark."""

    run: Path = Path("runs/scenes")
    """Folder of the training run."""
    model: Path | None = None
    """Model file instead of a run."""
    train_steps: int | None = None
    """Steps of the training; the preset's if omitted."""
    rooms: int = 12
    """Number of held-out rooms."""
    steps: int = 10
    """Denoising steps."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for scenes.json and scenes.md."""
    images: Path | None = None
    """Image file (.png) to write with the first rooms."""


@dataclass(frozen=True, eq=False)
class RoomResult:
    """Views of one room, with the true and with exchanged poses."""

    psnr: Mapping[str, float]
    """Mean PSNR of the views between the sources, by condition."""
    images: torch.Tensor
    """(3, P, S, S, 3) truth, generated with true poses, generated with exchanged poses."""


def trained_model(bench: SceneBenchmark) -> tuple[SceneModel, dict[str, Any]]:
    """The model under test with its EMA weights, and the extent of its training."""
    if bench.model is not None:
        return load_model(bench.model), {}
    started = time.process_time()
    config = read_train_config(PRESET)
    if bench.train_steps is not None:
        config = replace(config, optimiser=replace(config.optimiser, steps=bench.train_steps))
    train(config, bench.run, cpu=True)
    trained = load_trained(bench.run)
    progress = trained.state.progress
    planned = trained.config.optimiser.steps
    extent = {"steps": progress.step, "planned": planned, "minutes": progress.seconds / 60.0}
    return trained.module.model(), {**extent, "cpu_minutes": (time.process_time() - started) / 60.0}


def mean_psnr(images: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean PSNR in dB of images (P, S, S, 3) in 0..1."""
    return statistics.mean(psnr(*pair) for pair in zip(images, truth, strict=True))


def measure_room(model: SceneModel, index: int, steps: int) -> RoomResult:
    """Generates the views of one room under all conditions, from the same noise."""
    views = room_views(object_seed(HELD_OUT_SEED, index), VIEWS, model.family.size_px)
    path = [view for view in range(VIEWS) if view not in SOURCES]
    sources, targets = views[list(SOURCES)], views[path]
    config = SampleConfig(seed=index, steps=steps, guidance=GUIDANCE)

    def generate(given: Views) -> Any:
        return sample_path(model, given, targets.cameras, config)

    true = generate(sources)
    shuffled = [
        generate(Views(sources.cameras[order], sources.colour)) for order in ([1, 2, 0], [2, 0, 1])
    ]
    nearest = [min(range(3), key=lambda source: abs(SOURCES[source] - view)) for view in path]
    side = true.coarse.shape[1]
    coarse = targets.resized(side, side).colour
    values = {
        "true": mean_psnr(true.views.colour, targets.colour),
        "exchanged": statistics.mean(
            mean_psnr(each.views.colour, targets.colour) for each in shuffled
        ),
        "one": mean_psnr(generate(sources[1:2]).views.colour, targets.colour),
        "nearest": mean_psnr(sources.colour[nearest], targets.colour),
        "coarse": mean_psnr(true.coarse, coarse),
        "coarse_exchanged": statistics.mean(mean_psnr(each.coarse, coarse) for each in shuffled),
    }
    images = torch.stack([targets.colour, true.views.colour, shuffled[0].views.colour])
    return RoomResult(values, images)


def poses_table(results: Sequence[RoomResult]) -> Table:
    """The gain from the poses, with its target."""
    gains = [each.psnr["true"] - each.psnr["exchanged"] for each in results]
    mean = statistics.mean(gains)
    row = [statistics.mean(each.psnr[name] for each in results) for name in ("true", "exchanged")]
    target, verdict = f">= {TARGET_GAIN_DB:g} dB", "met" if mean >= TARGET_GAIN_DB else "missed"
    above = sum(gain >= TARGET_GAIN_DB for gain in gains)
    return Table(
        [
            ("true poses, dB", ".2f"),
            ("exchanged poses, dB", ".2f"),
            ("gain, dB", ".2f"),
            ("smallest gain, dB", ".2f"),
            (f"rooms above {TARGET_GAIN_DB:g} dB", ""),
            ("target", ""),
            ("verdict", ""),
        ],
        [[*row, mean, min(gains), f"{above} of {len(gains)}", target, verdict]],
        "PSNR of generated views, by the poses of the sources",
    )


def context_table(results: Sequence[RoomResult]) -> Table:
    """What the same views reach otherwise."""
    rows = {
        "nearest source, unchanged": "nearest",
        "generated from one source": "one",
        "generated from three sources": "true",
        "colours of the conditioner at latent size, true poses": "coarse",
        "colours of the conditioner at latent size, exchanged poses": "coarse_exchanged",
    }
    return Table(
        [("", ""), ("PSNR, dB", ".2f")],
        [[label, statistics.mean(r.psnr[name] for r in results)] for label, name in rows.items()],
        "For comparison",
        "Colours of the conditioner are compared with the true views at their own size.",
    )


def example_image(results: Sequence[RoomResult]) -> torch.Tensor:
    """(H, W, 3): for each room the true views, then those with true and with exchanged poses."""
    rows = [torch.cat(list(row), dim=1) for each in results for row in each.images]
    return torch.cat(rows, dim=0)


def main(bench: SceneBenchmark) -> None:
    torch.set_num_threads(1)
    model, extent = trained_model(bench)
    results = [measure_room(model, index, bench.steps) for index in range(bench.rooms)]
    trained = (
        f"trained for {extent['steps']} of {extent['planned']} planned steps "
        f"({extent['minutes']:.0f} minutes), "
        if extent
        else ""
    )
    limit = "" if bench.train_steps is None else f" --train-steps {bench.train_steps}"
    page = ResultPage(
        title="Views along a camera path",
        summary=(
            f"A small model for scenes (preset {PRESET}, {model.family.size_px} pixels), {trained}"
            f"generates the {VIEWS - len(SOURCES)} views between {len(SOURCES)} sources of "
            f"{bench.rooms} procedural rooms held out from training. Exchanged poses: each source "
            "has the pose of another one; mean of both cyclic exchanges, from the same noise. "
            "V3D's own weights for scenes are not published, so its results were not measured."
        ),
        tables=[poses_table(results), context_table(results)],
        command=f"python dev.py bench scenes --rooms {bench.rooms}{limit}",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        details={
            "settings": {key: str(value) for key, value in asdict(bench).items()},
            "training": extent,
            "rooms": [dict(each.psnr) for each in results],
        },
    )
    if bench.output is not None:
        save_page(bench.output, "scenes", page)
    if bench.images is not None:
        write_image(bench.images, example_image(results[:3]), overwrite=True)
    print(markdown_page(page, "scenes.json"))


if __name__ == "__main__":
    main(tyro.cli(SceneBenchmark, description=__doc__))

"""Effect of the feedback in joint training (Ouroboros3D), in miniature.

    python dev.py bench feedback [--seeds 3 --base-steps 250 --steps 100 --objects 12]

A tiny pair of networks is trained without feedback. Copies of it are then trained further with each
kind of feedback, and without, for each seed with other noise and another order of the objects. Each
pair generates held-out objects from their first views, with the feedback that it was trained with.
Compared are the generated views and the renders of their splats, with the truth and each other.

Training continues where it was interrupted: runs are kept in --runs.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
import tyro
from measure import machine
from results import RESULTS, ResultPage, Table, save_page

from nova3d_core.cameras.cameras import cameras_from_orbit
from nova3d_core.cameras.orbits import preset_orbit
from nova3d_core.diffusion.families import GuidanceConfig
from nova3d_core.diffusion.sampling.config import SampleConfig
from nova3d_core.evaluation.metrics.image import psnr
from nova3d_core.progress import Progress
from nova3d_core.recursion.config import FeedbackSource, RecursionConfig
from nova3d_core.recursion.sample import sample_recursive
from nova3d_core.splatting.render import splat_views
from nova3d_core.training.checkpoint import checkpoints_in, read_state
from nova3d_core.training.config import TrainConfig
from nova3d_core.training.data.config import ImageConfig
from nova3d_core.training.data.render import render_object
from nova3d_core.training.data.sampled_orbits import sample_orbit
from nova3d_core.training.data.stream import ObjectStream, object_seed
from nova3d_core.training.export import load_trained
from nova3d_core.training.joint.config import FAMILY
from nova3d_core.training.presets import read_train_config
from nova3d_core.training.procedural import grid_cells, procedural_object
from nova3d_core.training.runs import train

HELD_OUT_SEED = 77
"""Seed of the objects that are never trained on."""
PRESET = "ouroboros3d_mini"
BASE_SCHEDULE = 1.4
"""Length of the base's cosine schedule over its steps: its learning rate does not fall to 0."""
FURTHER_RATE = 4e-3
"""Constant learning rate of the further steps."""
NO_GUIDANCE = GuidanceConfig("constant", 1.0, 1.0)
NAMES = {
    "none": "none",
    "coordinates": "coordinate maps",
    "colour": "colours",
    "both": "both",
}
"""Kinds of feedback, in the order of the paper's table."""


@dataclass(frozen=True)
class Arguments:
    """Number of runs, their length, and the evaluation."""

    seeds: int = 3
    """Seeds of the further steps; each trains one pair per kind."""
    base_steps: int = 250
    """Steps without feedback, shared by the pairs of a seed."""
    steps: int = 100
    """Further steps with each kind of feedback."""
    pool: int = 300
    """Training objects."""
    objects: int = 12
    """Held-out objects that are generated."""
    sampling_steps: int = 10
    """Denoising steps."""
    runs: Path = Path("runs/feedback")
    """Folder of the runs."""
    kinds: tuple[FeedbackSource, ...] = ("none", "coordinates", "colour", "both")
    """Kinds of feedback; none and both are needed."""
    train_only: bool = False
    """Only train."""
    output: Path = RESULTS
    """Folder of the page."""


class Pool(ObjectStream):
    """A fixed set of objects, repeated in order.

    Args:
        items: the objects.
        batch_size: objects per batch.
    """

    total = None

    def __init__(self, items: list[dict[str, Any]], batch_size: int):
        super().__init__(0, 1, batch_size)
        self._items = items

    def fetch(self, number: int) -> dict[str, Any]:
        """One object of the sequence."""
        return self._items[number % len(self._items)]

    def identity(self) -> dict[str, Any]:
        """The number of objects."""
        return {"source": "pool", "objects": len(self._items)}


def render_objects(seed: int, count: int, size_px: int) -> list[dict[str, Any]]:
    """Procedural objects in the level orbit of the family, rotated by random yaws."""
    image = ImageConfig(size_px=size_px, family=FAMILY)
    level = replace(image.orbit, motion="level")
    items = []
    for number in range(count):
        own = object_seed(seed, number)
        mesh = procedural_object(own, cells=grid_cells(size_px))
        orbit = sample_orbit(level, image.view_count, own)
        images = render_object(mesh, config=image, closed=True, orbit=orbit)
        items.append({**images, "key": f"procedural-{own}"})
    return items


def train_to(config: TrainConfig, folder: Path, step: int, items: list[dict[str, Any]]) -> None:
    """Trains a run up to a step; settings of an earlier part may differ."""
    done = [0]

    def update(event: Any) -> None:
        done[0] = event.step if event.stage == "training" else done[0]

    progress = Progress(update, lambda: done[0] >= step)
    found = checkpoints_in(folder)
    if found and read_state(found[-1]).progress.step >= step:
        return
    result = train(
        config,
        folder,
        cpu=True,
        accept_changes=True,
        progress=progress,
        make_source=lambda settings, rank, world: Pool(items, settings.optimiser.batch_size),
    )
    if result.reason not in ("finished", "cancelled"):
        raise KeyboardInterrupt


def run_config(
    arguments: Arguments, seed: int, feedback: FeedbackSource, is_base: bool = False
) -> TrainConfig:
    """The settings of a run: the tiny preset with another length, seed, feedback and rate."""
    preset = read_train_config(PRESET)
    optimiser = replace(preset.optimiser, steps=round(BASE_SCHEDULE * arguments.base_steps))
    if not is_base:
        total = arguments.base_steps + arguments.steps
        optimiser = replace(
            optimiser, steps=total, lr_schedule="constant", learning_rate=FURTHER_RATE
        )
    return replace(
        preset,
        seed=seed,
        joint=replace(preset.joint, feedback=feedback),
        optimiser=optimiser,
        run=replace(preset.run, tensorboard=False, checkpoint_minutes=3.0),
    )


def train_pairs(
    arguments: Arguments, seed: int, kinds: Sequence[str], items: list[dict[str, Any]]
) -> None:
    """Trains the pairs of one seed with some kinds of feedback, after their common part."""
    base = arguments.runs / "base"
    train_to(run_config(arguments, 0, "none", is_base=True), base, arguments.base_steps, items)
    shift = seed * len(items) // arguments.seeds
    own = items[shift:] + items[:shift]
    for feedback in kinds:
        folder = run_folder(arguments, seed, feedback)
        if not folder.exists():
            shutil.copytree(base, folder)
        config = run_config(arguments, seed, feedback)
        train_to(config, folder, config.optimiser.steps, own)


def run_folder(arguments: Arguments, seed: int, feedback: str) -> Path:
    """The folder of one pair."""
    return arguments.runs / f"{feedback}-seed{seed}"


@torch.no_grad()
def measure_pair(
    arguments: Arguments, folder: Path, config: TrainConfig, held_out: list[dict[str, Any]]
) -> dict[str, float]:
    """Means over objects and unseen views.

    Returns:
        views, renders: PSNR in dB against the truth; difference: its absolute value per object;
        agreement: PSNR of the renders against the views.
    """
    size_px = config.data.size_px
    pair = load_trained(folder).module.model(size_px=size_px)
    cameras = cameras_from_orbit(preset_orbit(FAMILY, size_px, size_px))
    recursion = RecursionConfig(feedback=config.joint.feedback)
    results: dict[str, list[float]] = {}
    for seed, item in enumerate(held_out):
        truth = item["colour"].float() / 255.0  # (V, S, S, 3)
        settings = SampleConfig(
            seed=seed, steps=arguments.sampling_steps, guidance=NO_GUIDANCE, framing="image"
        )
        found = sample_recursive(pair, truth[0], None, settings, recursion)
        renders = splat_views(found.splats, cameras).colour
        views = found.images[0]
        scores = {
            name: unseen_psnr(each, truth)
            for name, each in (("views", views), ("renders", renders))
        }
        scores["difference"] = abs(scores["views"] - scores["renders"])
        scores["agreement"] = unseen_psnr(renders, views)
        for name, value in scores.items():
            results.setdefault(name, []).append(value)
    return {name: statistics.fmean(values) for name, values in results.items()}


def unseen_psnr(images: torch.Tensor, truth: torch.Tensor) -> float:
    """PSNR in dB over all views but the first, which is the input."""
    return psnr(images[1:], truth[1:])


HEADINGS = {
    "views": "views, dB",
    "renders": "renders, dB",
    "difference": "difference, dB",
    "agreement": "renders against views, dB",
}
TARGET = 0.5
"""Target: the difference with both kinds of feedback, over that without."""


def result_page(
    arguments: Arguments, measured: dict[str, list[dict[str, float]]], white_db: float
) -> ResultPage:
    """The page of results.

    Args:
        arguments: of the benchmark.
        measured: of each kind of feedback, one result per seed.
        white_db: PSNR of white images against the truth.
    """

    def mean(feedback: str, name: str) -> float:
        return statistics.fmean(each[name] for each in measured[feedback])

    spans = [
        [
            NAMES[feedback],
            *(
                [mean(feedback, name), min(values), max(values)]
                for name in HEADINGS
                for values in [[each[name] for each in runs]]
            ),
        ]
        for feedback, runs in measured.items()
    ]
    columns = [("feedback", ""), *((heading, ".2f") for heading in HEADINGS.values())]
    ratio = mean("both", "difference") / mean("none", "difference")
    gained_db = mean("both", "agreement") - mean("none", "agreement")
    met = "met" if ratio <= TARGET else "missed"
    return ResultPage(
        title="Feedback of the reconstruction, in miniature",
        summary=(
            "Joint training of a tiny pair of networks (preset ouroboros3d_mini) with different "
            f"kinds of feedback. One pair is trained for {arguments.base_steps} steps of 2 objects "
            f"without feedback, and copies of it for {arguments.steps} more steps with each kind "
            "and seed. Each pair generates "
            f"{arguments.objects} held-out procedural objects of 32 pixels in "
            f"{arguments.sampling_steps} steps without guidance. Absolute figures say nothing "
            "about Ouroboros3D's published weights."
        ),
        tables=[
            Table(
                columns,
                spans,
                text=(
                    "PSNR of the generated views and of the renders of their splats against the "
                    "truth, over the views other than the input; the absolute difference of the "
                    "two per object, as in the paper's ablation; PSNR of the renders against the "
                    f"generated views. Each cell: mean, lowest and highest of {arguments.seeds} "
                    "seeds."
                ),
                notes=[
                    f"Target: the difference with both kinds of feedback is at most {TARGET:g} of "
                    f"that without: it is {ratio:.2f} ({met}).",
                    f"With both kinds of feedback, PSNR of the renders against the views is "
                    f"{gained_db:+.2f} dB compared with none.",
                    f"White images have a PSNR of {white_db:.2f} dB against the truth. Where the "
                    "generated views are little better, the networks have learned too little for "
                    "the feedback to matter, and the comparison says nothing about longer "
                    "training.",
                ],
            )
        ],
        command=(
            f"python dev.py bench feedback --kinds {' '.join(arguments.kinds)} "
            f"--seeds {arguments.seeds} --base-steps "
            f"{arguments.base_steps} --steps {arguments.steps} --pool {arguments.pool} --objects "
            f"{arguments.objects} --sampling-steps {arguments.sampling_steps}"
        ),
        machine=machine(),
        date=date.today().isoformat(),
        details=measured,
    )


def main(arguments: Arguments) -> None:
    """Trains, measures, and writes the page."""
    torch.set_num_threads(1)
    size_px = read_train_config(PRESET).data.size_px
    items = render_objects(1, arguments.pool, size_px)
    for seed in range(arguments.seeds):
        train_pairs(arguments, seed, arguments.kinds, items)
    if arguments.train_only:
        return
    held_out = render_objects(HELD_OUT_SEED, arguments.objects, size_px)
    measured = {
        feedback: [
            measure_pair(
                arguments,
                run_folder(arguments, seed, feedback),
                run_config(arguments, seed, feedback),
                held_out,
            )
            for seed in range(arguments.seeds)
        ]
        for feedback in NAMES
        if feedback in arguments.kinds
    }
    truths = [item["colour"].float() / 255.0 for item in held_out]
    white_db = statistics.fmean(unseen_psnr(torch.ones_like(truth), truth) for truth in truths)
    page = result_page(arguments, measured, white_db)
    path = save_page(arguments.output, "feedback", page)
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))

"""What alignment attention is worth, in miniature: the paper's ablation with nova3d-mini.

    python dev.py bench alignment -o RUNS [--steps 600 --seeds 3 --objects 64]

Three networks: alignment between domains in spatial and temporal blocks (GTA), in the spatial
blocks only (Wonder3D's way), in none. Each seed gives all three the same objects, noise and steps;
what they paint of unseen objects is compared with the truth. Runs are kept in the folder RUNS, so
that the same command goes on where it was stopped, and `--minutes` ends it in good time. On a CPU
`--workers` as many as cores is quickest: the layers are too small to share.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from measure import write_figures

from nova3d_core.checks import check_between
from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.model import OneDevice
from nova3d_core.training.config import TrainConfig
from nova3d_core.training.data.object_sources import held_out_objects
from nova3d_core.training.export import load_trained
from nova3d_core.training.presets import read_train_config
from nova3d_core.training.runs import train
from nova3d_core.training.validation import validate

VARIANTS = {"gta": "GTA", "spatial": "spatial blocks only", "none": "without"}
FIGURES = {
    "psnr": ("PSNR, dB", 2),
    "ssim": ("SSIM", 4),
    "normal_error_deg": ("normal error, °", 2),
    "silhouette_iou": ("silhouette IoU", 4),
    "agreement_iou": ("colour and normal silhouettes, IoU", 4),
}
"""Figures of `training.validation`, with their titles and decimals."""


@dataclass(frozen=True)
class AlignmentBenchmark:
    """Settings of the benchmark."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """A folder for the runs, and for figures.json and table.md."""
    config: str = "mini"
    """Training settings, as `train` takes them."""
    steps: int = 600
    """Length of each run."""
    batch: int | None = None
    """Objects of a step; the settings' own if None. Few objects and many steps teach the most."""
    seeds: int = 3
    """Runs of each network."""
    objects: int = 64
    """Unseen objects that are measured."""
    workers: int = 1
    """Runs at once, each in a process of its own with its share of the cores."""
    minutes: float | None = None
    """End after so many; the same command goes on."""

    def __post_init__(self):
        check_between("alignment workers", self.workers, 1, 1024)


def settings_of(bench: AlignmentBenchmark, variant: str, seed: int) -> TrainConfig:
    """The run's settings; only the alignment and the seed differ."""
    config = read_train_config(bench.config)
    network = replace(config.network, unet=replace(config.network.unet, alignment=variant))
    run = replace(config.run, sample_grid_steps=0, validation_steps=0, tensorboard=False, max_checkpoints=1)
    optimiser = replace(config.optimiser, steps=bench.steps)
    if bench.batch is not None:
        optimiser = replace(optimiser, batch_size=bench.batch)
    return replace(config, seed=seed, network=network, optimiser=optimiser, run=run)


def figures_of(bench: AlignmentBenchmark, variant: str, seed: int, ends: float) -> dict | None:
    """Trains one network, or goes on with it, and measures it; None if time ran out."""
    folder = bench.output / f"{variant}-{seed}"
    kept = folder / "figures.json"
    config = settings_of(bench, variant, seed)
    key = {"steps": bench.steps, "batch": config.optimiser.batch_size, "objects": bench.objects}
    if kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["key"] == key:
            return found
    left = (ends - time.time()) / 60.0
    if left <= 0.0 or train(config, folder, min(left, 1e6)).reason != "finished":
        return None
    trained = load_trained(folder)
    model = trained.module.model()
    truths = held_out_objects(config, FAMILIES[config.family], bench.objects)
    found = {
        "key": key,
        "weights": sum(weight.numel() for weight in trained.module.parameters()),
        "hours": trained.state.progress.seconds / 3600.0,
        "means": validate(model, truths, OneDevice(model, torch.device("cpu"))).means,
    }
    kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def spread(values: list[float], digits: int) -> str:
    """Mean and standard deviation over seeds."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def table(runs: dict[tuple[str, int], dict]) -> str:
    """Mean and deviation over seeds; below, what each seed's GTA has more than its rivals."""
    titles = ["network", "weights, M", *(title for title, _ in FIGURES.values())]
    rows = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    for variant, label in VARIANTS.items():
        own = [found for (name, _), found in sorted(runs.items()) if name == variant]
        if own:
            cells = [
                spread([each["means"][figure] for each in own], digits)
                for figure, (_, digits) in FIGURES.items()
            ]
            rows.append([label, f"{own[0]['weights'] / 1e6:.2f}", *cells])
    for rival in ("spatial", "none"):
        seeds = [s for (name, s) in sorted(runs) if name == rival and ("gta", s) in runs]
        if seeds:
            cells = [
                spread(
                    [
                        runs["gta", seed]["means"][figure] - runs[rival, seed]["means"][figure]
                        for seed in seeds
                    ],
                    digits,
                )
                for figure, (_, digits) in FIGURES.items()
            ]
            rows.append([f"GTA less {VARIANTS[rival]}, same seed", "", *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def all_figures(bench: AlignmentBenchmark) -> Iterator[dict | None]:
    """`figures_of` for each of `jobs_of`, in that order."""
    ends = time.time() + (bench.minutes * 60.0 if bench.minutes else float("inf"))
    jobs = jobs_of(bench)
    if bench.workers == 1:
        yield from (figures_of(bench, *job, ends) for job in jobs)
        return
    threads = max(1, (os.cpu_count() or 1) // bench.workers)
    fresh = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(bench.workers, fresh, torch.set_num_threads, (threads,))
    try:
        found = [pool.submit(figures_of, bench, *job, ends) for job in jobs]
        yield from (each.result() for each in found)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or an error no further run begins


def jobs_of(bench: AlignmentBenchmark) -> list[tuple[str, int]]:
    """Network and seed of each run: all networks of a seed before the next seed."""
    return [(variant, seed) for seed in range(1, bench.seeds + 1) for variant in VARIANTS]


def main(bench: AlignmentBenchmark) -> None:
    each = zip(jobs_of(bench), all_figures(bench), strict=True)
    runs = {job: found for job, found in each if found is not None}
    text = table(runs)
    document = {
        "steps": bench.steps,
        "batch": bench.batch,
        "objects": bench.objects,
        "runs": {f"{variant}-{seed}": found for (variant, seed), found in runs.items()},
    }
    write_figures(bench.output, document, text)
    print(f"{len(runs)} of {bench.seeds * len(VARIANTS)} runs.\n\n{text}")


if __name__ == "__main__":
    main(tyro.cli(AlignmentBenchmark, description=__doc__))

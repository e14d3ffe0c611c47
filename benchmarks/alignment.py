"""Ablation of alignment attention at small scale, with the network of nova3d-mini.

    python dev.py bench alignment -o RUNS [--steps 600 --seeds 3 --objects 64]

Three networks: alignment attention between domains in spatial and temporal blocks (GTA), in spatial
blocks only (as in Wonder3D), or in none. For each seed all three get the same objects, noise and
number of steps; generated views of held-out objects are compared with the ground truth. Runs are
kept in the folder RUNS: the same command resumes an interrupted benchmark, and `--minutes` limits
its time. On a CPU it is fastest with one worker per core: the layers are too small for threads.
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
from typing import Annotated, Any

import torch
import tyro
from measure import machine
from results import ResultPage, Table, markdown_page, save_page

from nova3d_core.checks import check_between
from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.model import OneDevice
from nova3d_core.training.config import TrainConfig
from nova3d_core.training.export import load_trained
from nova3d_core.training.object_sources import held_out_objects
from nova3d_core.training.presets import read_train_config
from nova3d_core.training.runs import train
from nova3d_core.training.validation import validate

VARIANTS = {"gta": "GTA", "spatial": "spatial blocks only", "none": "none"}
METRICS = {
    "psnr": ("PSNR, dB", 2),
    "ssim": ("SSIM", 4),
    "normal_error_deg": ("normal error, °", 2),
    "silhouette_iou": ("silhouette IoU", 4),
    "agreement_iou": ("colour and normal silhouettes, IoU", 4),
}
"""Metrics of `training.validation`, with their headings and decimals."""


@dataclass(frozen=True)
class AlignmentBenchmark:
    """Settings of the benchmark."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for the runs, gta.json and gta.md."""
    config: str = "mini"
    """Training settings, as for `train`."""
    steps: int = 600
    """Steps of each run."""
    batch: int | None = None
    """Batch size; default from the settings. Small batches and many steps learn most."""
    seeds: int = 3
    """Number of runs of each network."""
    objects: int = 64
    """Number of held-out objects."""
    workers: int = 1
    """Parallel runs, each in its own process with an equal part of the cores."""
    minutes: float | None = None
    """Time limit; the same command resumes."""

    def __post_init__(self):
        check_between("alignment workers", self.workers, 1, 1024)


def train_config(bench: AlignmentBenchmark, variant: str, seed: int) -> TrainConfig:
    """Settings of a run; only the alignment attention and the seed differ."""
    config = read_train_config(bench.config)
    network = replace(config.network, unet=replace(config.network.unet, alignment=variant))
    run = replace(
        config.run, sample_grid_steps=0, validation_steps=0, tensorboard=False, max_checkpoints=1
    )
    optimiser = replace(config.optimiser, steps=bench.steps)
    if bench.batch is not None:
        optimiser = replace(optimiser, batch_size=bench.batch)
    return replace(config, seed=seed, network=network, optimiser=optimiser, run=run)


def run_one(
    bench: AlignmentBenchmark, variant: str, seed: int, deadline: float
) -> dict[str, Any] | None:
    """Trains one network, or resumes its training, and validates it; None if time ran out."""
    folder = bench.output / f"{variant}-{seed}"
    path = folder / "metrics.json"
    config = train_config(bench, variant, seed)
    key = {"steps": bench.steps, "batch": config.optimiser.batch_size, "objects": bench.objects}
    if path.is_file():
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["key"] == key:
            return saved
    minutes = (deadline - time.time()) / 60.0
    if minutes <= 0.0 or train(config, folder, min(minutes, 1e6)).reason != "finished":
        return None
    trained = load_trained(folder)
    model = trained.module.model()
    samples = held_out_objects(config, FAMILIES[config.family], bench.objects)
    result = {
        "key": key,
        "weights": sum(weight.numel() for weight in trained.module.parameters()),
        "hours": trained.state.progress.seconds / 3600.0,
        "means": validate(model, samples, OneDevice(model, torch.device("cpu"))).means,
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def mean_and_deviation(values: list[float], digits: int) -> str:
    """Mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def result_table(runs: dict[tuple[str, int], dict[str, Any]]) -> Table:
    """Mean and deviation over seeds; below, paired differences between GTA and the others."""
    columns = [("network", ""), ("weights, M", ".2f")]
    columns += [(heading, "") for heading, _ in METRICS.values()]
    rows: list[list[Any]] = []
    for variant, label in VARIANTS.items():
        own = [run for (name, _), run in sorted(runs.items()) if name == variant]
        if own:
            cells = [
                mean_and_deviation([run["means"][metric] for run in own], digits)
                for metric, (_, digits) in METRICS.items()
            ]
            rows.append([label, own[0]["weights"] / 1e6, *cells])
    for other in ("spatial", "none"):
        seeds = [s for (name, s) in sorted(runs) if name == other and ("gta", s) in runs]
        if seeds:
            cells = [
                mean_and_deviation(
                    [
                        runs["gta", seed]["means"][metric] - runs[other, seed]["means"][metric]
                        for seed in seeds
                    ],
                    digits,
                )
                for metric, (_, digits) in METRICS.items()
            ]
            rows.append([f"GTA minus {VARIANTS[other]}, same seed", "", *cells])
    return Table(columns, rows)


def run_all(bench: AlignmentBenchmark) -> Iterator[dict[str, Any] | None]:
    """Results of all `jobs_of`, in their order."""
    deadline = time.time() + (bench.minutes * 60.0 if bench.minutes else float("inf"))
    jobs = jobs_of(bench)
    if bench.workers == 1:
        yield from (run_one(bench, *job, deadline) for job in jobs)
        return
    threads = max(1, (os.cpu_count() or 1) // bench.workers)
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(bench.workers, spawn, torch.set_num_threads, (threads,))
    try:
        futures = [pool.submit(run_one, bench, *job, deadline) for job in jobs]
        yield from (future.result() for future in futures)
    finally:
        pool.shutdown(cancel_futures=True)  # start no further run after Ctrl-C or an error


def jobs_of(bench: AlignmentBenchmark) -> list[tuple[str, int]]:
    """Network and seed of each run: all networks of a seed before the next seed."""
    return [(variant, seed) for seed in range(1, bench.seeds + 1) for variant in VARIANTS]


def main(bench: AlignmentBenchmark) -> None:
    results = zip(jobs_of(bench), run_all(bench), strict=True)
    runs = {job: result for job, result in results if result is not None}
    page = ResultPage(
        title="Alignment attention at small scale",
        summary=f"{len(runs)} of {bench.seeds * len(VARIANTS)} runs of {bench.steps} steps. Means "
        f"over the unseen views of {bench.objects} held-out objects, ± the standard deviation over "
        "seeds.",
        tables=[result_table(runs)],
        command=f"python dev.py bench alignment -o {bench.output} --steps {bench.steps}",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        details={
            "steps": bench.steps,
            "batch": bench.batch,
            "objects": bench.objects,
            "runs": {f"{variant}-{seed}": result for (variant, seed), result in runs.items()},
        },
    )
    save_page(bench.output, "gta", page)
    print(markdown_page(page, "gta.json"))


if __name__ == "__main__":
    main(tyro.cli(AlignmentBenchmark, description=__doc__))

"""Steps of each sampler against the quality of the built-in model's views.

    python dev.py bench samplers [--objects 6] [-o docs/results]

Views of procedural objects held out from training are generated with the same noise by every
sampler and number of steps, and compared with the ground truth and with a converged solution.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from measure import machine
from results import ResultPage, Table, markdown_page, save_page
from torch import Tensor

from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.model import MultiviewModel, OneDevice
from nova3d_core.diffusion.sampling.config import SamplerName
from nova3d_core.diffusion.sampling.sampler import evaluation_sigmas
from nova3d_core.diffusion.sampling.schedule import karras_sigmas
from nova3d_core.training.object_sources import held_out_objects
from nova3d_core.training.presets import read_train_config
from nova3d_core.training.validation import (
    ValidationSample,
    generate_views,
    mean_over_unseen_views,
    view_metrics,
)
from nova3d_core.weights.discovery.built_in import BUILT_IN_NAME, built_in_file
from nova3d_core.weights.load import load_model

RUNS: tuple[tuple[SamplerName, int], ...] = (
    ("euler", 4),
    ("euler", 8),
    ("euler", 16),
    ("heun", 2),
    ("heun", 3),
    ("heun", 5),
    ("heun", 9),
    ("dpmpp_2m", 4),
    ("dpmpp_2m", 8),
    ("dpmpp_2m", 16),
)
"""Samplers and steps; Euler with 8 steps is the default."""
CONVERGED: tuple[SamplerName, int] = ("dpmpp_2m", 64)
"""Solution of the ODE that the others are compared with."""


@dataclass(frozen=True)
class SamplersBenchmark:
    """Settings of the benchmark."""

    objects: int = 6
    """Number of held-out objects."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for samplers.json and samplers.md."""


@torch.no_grad()
def generate(
    model: MultiviewModel, truth: ValidationSample, seed: int, run: tuple[SamplerName, int]
) -> Tensor:
    """(D, V, S, S, 3) in 0..1, from the first view."""
    placement = OneDevice(model, torch.device("cpu"))
    name, steps = run
    return generate_views(model, truth.colour[0], placement, seed, steps, sampler=name)


def rows_of(model: MultiviewModel, samples: list[ValidationSample]) -> list[list]:
    """One row of means per run."""
    family = model.family
    converged = [generate(model, each, seed, CONVERGED) for seed, each in enumerate(samples)]
    rows = []
    for run in RUNS:
        metrics, errors = [], []
        for seed, (truth, solution) in enumerate(zip(samples, converged, strict=True)):
            images = generate(model, truth, seed, run)
            metrics.append(mean_over_unseen_views(view_metrics(images, truth)))
            errors.append(float((images - solution)[:, 1:].square().mean().sqrt()))
        sigmas = karras_sigmas(run[1], family.sigma_min, family.sigma_max)
        means = [
            statistics.mean(each[name] for each in metrics)
            for name in ("psnr", "normal_error_deg", "silhouette_iou")
        ]
        evaluations = len(evaluation_sigmas(run[0], sigmas))
        rows.append([*run, evaluations, *means, statistics.mean(errors)])
    return rows


def main(bench: SamplersBenchmark) -> None:
    model = load_model(built_in_file(), dtype=torch.float32)
    samples = held_out_objects(read_train_config("mini"), FAMILIES[BUILT_IN_NAME], bench.objects)
    columns = [
        ("sampler", ""),
        ("steps", "d"),
        ("evaluations", "d"),
        ("PSNR of the colours, dB", ".2f"),
        ("normal error °", ".2f"),
        ("silhouette IoU", ".3f"),
        ("RMS difference from the converged solution", ".4f"),
    ]
    page = ResultPage(
        title="Samplers",
        summary=f"nova3d-mini, {len(samples)} procedural objects held out from training, the same "
        "noise for every row: means over the 15 unseen views, then over objects. An evaluation is "
        "one run of the network, twice with guidance; Heun's method takes two per step. The "
        f"converged solution is DPM++ 2M with {CONVERGED[1]} steps.",
        tables=[Table(columns, rows_of(model, samples))],
        command=f"python dev.py bench samplers --objects {bench.objects}",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
    )
    if bench.output is not None:
        save_page(bench.output, "samplers", page)
    print(markdown_page(page, "samplers.json"))


if __name__ == "__main__":
    main(tyro.cli(SamplersBenchmark, description=__doc__))

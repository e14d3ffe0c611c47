"""LGM at full size with random weights: time and memory of splats from four views.

    python dev.py bench reconstruction [--device cuda --dtype float16] [-o FOLDER]

The weights do not affect time and memory; quality needs the published file and is not measured.
Wall time on a machine with other load means little, so CPU time is stated, too. Target: at most
15 s on two idle CPU cores, 65,536 splats.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from measure import machine
from results import ResultPage, Table, markdown_page, save_page

from nova3d_core.compute.devices import resolve_device
from nova3d_core.io.views.transforms_json import read_views
from nova3d_core.reconstruction.config import FAMILIES, LgmConfig
from nova3d_core.reconstruction.model import ReconstructionModel, ReconstructionOnDevice
from nova3d_core.reconstruction.network import Lgm
from nova3d_core.reconstruction.reconstruct import reconstruct_splats

VIEWS = Path(__file__).resolve().parents[1] / "nova3d_core" / "assets" / "knight" / "views"
TARGET_S = 15.0
MODELS = {"LGM": ("lgm", 0), "Ouroboros3D's reconstruction model": ("ouroboros3d", 128)}
"""Display name -> family and length of the time embedding."""


@dataclass(frozen=True)
class ReconstructionBenchmark:
    """Settings of the benchmark."""

    rounds: int = 3
    """Passes of each model; the fastest counts."""
    threads: int = 2
    """CPU threads."""
    device: str = "cpu"
    """Device to run on."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Dtype of weights and inputs."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for reconstruction.json and reconstruction.md."""


def measure(label: str, settings: ReconstructionBenchmark) -> list[float | int | str]:
    """Splats, wall and CPU time, and memory of one model."""
    family, time_channels = MODELS[label]
    device, dtype = resolve_device(settings.device), getattr(torch, settings.dtype)
    network = Lgm(LgmConfig(time_channels=time_channels), device=device, dtype=dtype)
    model = ReconstructionModel(FAMILIES[family], network.requires_grad_(False).eval())
    placement, views = ReconstructionOnDevice(model, device, dtype), read_views(VIEWS)
    weights_mib = sum(weight.nbytes for weight in network.parameters()) / 2**20
    walls, cpus, count = [], [], 0
    for _ in range(settings.rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        count = reconstruct_splats(model, views, placement=placement).report.count
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return [label, count, min(walls), min(cpus), weights_mib, _peak_mib(device)]


def _peak_mib(device: torch.device) -> float:
    """Peak memory so far, with the weights: of the process, or on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(settings: ReconstructionBenchmark) -> None:
    torch.set_num_threads(settings.threads)
    loads = [os.getloadavg()[0]]
    rows = [measure(label, settings) for label in MODELS]
    loads.append(os.getloadavg()[0])
    columns = [("model", ""), ("splats", "d"), ("wall s", ".1f"), ("CPU s", ".1f")]
    columns += [("weights MiB", ".0f"), ("peak MiB", ".0f")]
    busy = f"Load average of the machine: {loads[0]:.1f} to {loads[1]:.1f}."
    page = ResultPage(
        title="Splats from four views",
        summary=f"One pass of each reconstruction model at full size, {settings.dtype} on "
        f"{settings.device}, {settings.threads} threads, random weights, the shipped views of 256 "
        "px: selection, re-framing, forward pass, splats. Peak memory includes the weights, and on "
        "a CPU the process.",
        tables=[Table(columns, rows, notes=[busy, f"Target: {TARGET_S:g} s on two idle cores."])],
        command="python dev.py bench reconstruction",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        details={"settings": {"rounds": settings.rounds, "dtype": settings.dtype}, "load": loads},
    )
    if settings.output:
        save_page(settings.output, "reconstruction", page)
    print(markdown_page(page, "reconstruction.json"))


if __name__ == "__main__":
    main(tyro.cli(ReconstructionBenchmark, description=__doc__))

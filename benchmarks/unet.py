"""The video UNet against diffusers' own, and what alignment attention costs: time and memory.

    python dev.py bench unet [--device cuda --dtype bfloat16 --width 320] [-o unet.json]

Rounds alternate between the networks in one process, so that what else the machine does hits all
alike; the least of each is compared. Peak memory is that of a process (or of the GPU) that runs one
network alone, less what it holds before the pass. Weights are random: no figure depends on them.
Targets: no slower than diffusers and no more memory; alignment at most 20 % more.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from measure import machine

from nova3d_core.diffusion.network.config import UNetConfig
from nova3d_core.diffusion.network.unet import VideoUNet

Network = Literal["diffusers", "ours", "two domains", "two domains, aligned"]
PAIRS: tuple[tuple[Network, Network, float], ...] = (
    ("ours", "diffusers", 1.0),
    ("two domains, aligned", "two domains", 1.2),
)
"""A network, what it is measured against, and the most that it may take over that."""
FACTORS = (1, 2, 4, 4)
CONTEXT, ADDED = 1024, 768


@dataclass(frozen=True)
class UNetBenchmark:
    """Settings of the benchmark."""

    width: int = 128
    """Channels of the first level; the published networks have 320."""
    views: int = 16
    """Views of an object."""
    latent: int = 32
    """Height and width of the latents; 32 for images of 256 pixels."""
    rounds: int = 5
    """Passes of each network."""
    device: str = "cpu"
    """Where to run."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of weights and inputs."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """A JSON file for the figures."""
    memory_of: Network | None = None
    """Only measure one network's peak memory, in MiB; what the benchmark calls itself with."""


def pass_of(network: Network, settings: UNetBenchmark) -> Callable[[], object]:
    """A forward pass of the network, ready to be called."""
    factory = {"device": settings.device, "dtype": getattr(torch, settings.dtype)}
    size, views = settings.latent, settings.views
    domains = 2 if network.startswith("two") else 1

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, **factory)

    x, c_noise, context = noise(domains, 1, views, 8, size, size), noise(1), noise(1, 1, CONTEXT)
    if network == "diffusers":
        from diffusers import UNetSpatioTemporalConditionModel

        widths = tuple(settings.width * factor for factor in FACTORS)
        heads = tuple(max(width // 64, 1) for width in widths)
        unet = UNetSpatioTemporalConditionModel(
            block_out_channels=widths, num_attention_heads=heads, num_frames=views
        )
        unet = unet.to(**factory).eval()
        ids = noise(1, 3)
        return lambda: unet(x[0], c_noise, context, added_time_ids=ids)
    alignment = "gta" if "aligned" in network else "none"
    config = UNetConfig(model_channels=settings.width, domains=domains, alignment=alignment)
    ours, added = VideoUNet(config, **factory).eval(), noise(1, views, ADDED)
    return lambda: ours(x, c_noise, context, added)


def waited(settings: UNetBenchmark) -> float:
    """The time now, once the device has done what it was told."""
    if settings.device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.inference_mode()
def seconds(settings: UNetBenchmark) -> dict[str, float]:
    """The least time of each network's pass."""
    names = [name for pair in PAIRS for name in pair[:2]]
    passes = {name: pass_of(name, settings) for name in names}
    least = dict.fromkeys(names, float("inf"))
    for step in range(settings.rounds + 1):
        for name, run in passes.items():
            start = waited(settings)
            run()
            took = waited(settings) - start
            if step:  # the first pass warms up
                least[name] = min(least[name], took)
    return least


@torch.inference_mode()
def peak_mib(network: Network, settings: UNetBenchmark) -> float:
    """Memory of one pass beyond the weights."""
    run = pass_of(network, settings)
    if settings.device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    import psutil

    before = psutil.Process().memory_info().rss
    run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**20


def peak_in_a_process(network: Network, settings: UNetBenchmark) -> float:
    """`peak_mib` in a fresh process."""
    words = [sys.executable, __file__, "--memory-of", network]
    for name in ("width", "views", "latent", "device", "dtype"):
        words += [f"--{name}", str(getattr(settings, name))]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def main(settings: UNetBenchmark) -> None:
    from nova3d_core.compute.devices import resolve_device
    from nova3d_core.errors import InputError

    try:
        resolve_device(settings.device)
    except InputError as error:
        raise SystemExit(str(error)) from error
    if settings.memory_of:
        print(peak_mib(settings.memory_of, settings))
        return
    took = seconds(settings)
    peak = {name: peak_in_a_process(name, settings) for name in took}
    rows = ["| network | against | time | most | memory | most |", "|---|---|---|---|---|---|"]
    for name, other, most in PAIRS:
        ratios = took[name] / took[other], peak[name] / peak[other]
        cells = [name, other, f"{ratios[0]:.2f}", f"{most:g}", f"{ratios[1]:.2f}", f"{most:g}"]
        rows.append("| " + " | ".join(cells) + " |")
    print("\n".join(rows))
    if settings.output:
        about = {key: value for key, value in asdict(settings).items() if key != "output"}
        figures = {"machine": machine(), "settings": about, "seconds": took, "peak_mib": peak}
        settings.output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(tyro.cli(UNetBenchmark))

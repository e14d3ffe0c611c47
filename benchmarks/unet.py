"""Video UNet compared with that of diffusers, and the cost of alignment attention: time and memory.

    python dev.py bench unet [--device cuda --dtype bfloat16 --width 320] [-o FOLDER]

Rounds alternate between the networks in one process, so that other load affects all alike; the
minimum time of each is compared. Peak memory is that of a process (or of the GPU) that runs one
network alone, minus what it holds before the pass. Weights are random and do not
affect the results.
Targets: no slower than diffusers and no more memory; alignment attention at most 20 % more.
"""

from __future__ import annotations

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
from results import ResultPage, Table, markdown_page, save_page

from nova3d_core.diffusion.network.config import UNetConfig
from nova3d_core.diffusion.network.unet import VideoUNet

Network = Literal["diffusers", "ours", "two domains", "two domains, aligned"]
PAIRS: tuple[tuple[Network, Network, float], ...] = (
    ("ours", "diffusers", 1.0),
    ("two domains, aligned", "two domains", 1.2),
)
"""Network, baseline, maximum ratio of time and memory."""
FACTORS = (1, 2, 4, 4)
CONTEXT_DIM, ADDED_DIM = 1024, 768


@dataclass(frozen=True)
class UNetBenchmark:
    """Settings of the benchmark."""

    width: int = 128
    """Channels of the first level; the published networks have 320."""
    views: int = 16
    """Number of views."""
    latent: int = 32
    """Height and width of the latents; 32 for images of 256 px."""
    rounds: int = 5
    """Forward passes of each network."""
    device: str = "cpu"
    """Device to run on."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Dtype of weights and inputs."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for unet.json and unet.md."""
    memory_of: Network | None = None
    """Internal: only print the peak memory of one network, in MiB."""


def pass_of(network: Network, settings: UNetBenchmark) -> Callable[[], object]:
    """A function that runs one forward pass of the network."""
    factory = {"device": settings.device, "dtype": getattr(torch, settings.dtype)}
    size, views = settings.latent, settings.views
    domains = 2 if network.startswith("two") else 1

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, **factory)

    x, c_noise, context = (
        noise(domains, 1, views, 8, size, size),
        noise(1),
        noise(1, 1, CONTEXT_DIM),
    )
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
    ours, added = VideoUNet(config, **factory).eval(), noise(1, views, ADDED_DIM)
    return lambda: ours(x, c_noise, context, added)


def synchronised_time(settings: UNetBenchmark) -> float:
    """Current time after pending work of the device has finished."""
    if settings.device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.inference_mode()
def seconds(settings: UNetBenchmark) -> dict[str, float]:
    """Minimum time of a forward pass of each network."""
    names = [name for pair in PAIRS for name in pair[:2]]
    passes = {name: pass_of(name, settings) for name in names}
    fastest = dict.fromkeys(names, float("inf"))
    for step in range(settings.rounds + 1):
        for name, run in passes.items():
            start = synchronised_time(settings)
            run()
            elapsed = synchronised_time(settings) - start
            if step:  # the first pass warms up
                fastest[name] = min(fastest[name], elapsed)
    return fastest


@torch.inference_mode()
def peak_mib(network: Network, settings: UNetBenchmark) -> float:
    """Peak memory of one pass, without the weights."""
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


def peak_mib_in_subprocess(network: Network, settings: UNetBenchmark) -> float:
    """`peak_mib` in a new process."""
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
    times = seconds(settings)
    peaks = {name: peak_mib_in_subprocess(name, settings) for name in times}
    rows = [
        [name, baseline, times[name] / times[baseline], peaks[name] / peaks[baseline], limit]
        for name, baseline, limit in PAIRS
    ]
    columns = [("network", ""), ("compared with", ""), ("time ratio", ".2f")]
    columns += [("peak memory ratio", ".2f"), ("limit", "g")]
    config = {key: value for key, value in asdict(settings).items() if key != "output"}
    page = ResultPage(
        title="Video UNet",
        summary=f"Width {settings.width}, {settings.views} views, latents of {settings.latent} x "
        f"{settings.latent}, {settings.dtype} on {settings.device}, random weights.",
        tables=[Table(columns, rows)],
        command=f"python dev.py bench unet --views {settings.views} --width {settings.width}",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        details={"settings": config, "seconds": times, "peak_mib": peaks},
    )
    if settings.output:
        save_page(settings.output, "unet", page)
    print(markdown_page(page, "unet.json"))


if __name__ == "__main__":
    main(tyro.cli(UNetBenchmark, description=__doc__))

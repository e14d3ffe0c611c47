"""One step of Ouroboros3D at full size with random weights: CPU time of each part, and peak memory.

    python dev.py bench recursion [--device cuda] [-o FOLDER]

The weights do not affect time and memory; quality needs the published files and is not measured.
The image encoder is left out: it runs once, not in each step. On a machine with other load only the
CPU time means something.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from measure import machine
from results import ResultPage, Table, markdown_page, save_page
from torch import Tensor, nn

from nova3d_core.cameras.cameras import cameras_from_orbit
from nova3d_core.cameras.orbits import preset_orbit
from nova3d_core.compute.devices import resolve_device
from nova3d_core.diffusion.codecs.vae import VaeCodec, build_vae
from nova3d_core.diffusion.codecs.vae_config import VaeConfig
from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.network.config import UNetConfig
from nova3d_core.diffusion.network.feedback_unet import FeedbackUNet
from nova3d_core.diffusion.sampling.conditioning import Conditioning, added_embeds
from nova3d_core.diffusion.sampling.config import SampleConfig
from nova3d_core.diffusion.sampling.pipeline import sample_latents
from nova3d_core.diffusion.sampling.process import sampling_process
from nova3d_core.diffusion.sampling.trajectory import plan_trajectory
from nova3d_core.progress import SILENT
from nova3d_core.reconstruction.config import FAMILIES as RECONSTRUCTIONS
from nova3d_core.reconstruction.config import LgmConfig
from nova3d_core.reconstruction.model import ReconstructionModel
from nova3d_core.reconstruction.network import Lgm
from nova3d_core.recursion.config import RecursionConfig
from nova3d_core.recursion.feedback import FeedbackLoop, initial_feedback, network_reconstruction
from nova3d_core.recursion.model import RecursiveModel, RecursiveOnDevice
from nova3d_core.splats import Splats

LABELS = {
    "unet": "UNet, with and without the image", "codec": "decoding 8 views",
    "reconstruction": "reconstruction", "rendering": "rendering 8 views",
}  # fmt: skip
POOL = 1 << 22


@dataclass(frozen=True)
class RecursionBenchmark:
    """Settings of the benchmark."""

    threads: int = 1
    """CPU threads."""
    device: str = "cpu"
    """Device to run on."""
    weights: Literal["float32", "bfloat16", "float16"] = "float16"
    """Dtype of the weights of both networks; they compute in float32 on a CPU."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for recursion.json and recursion.md."""


def randomised(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Random weights for a module on the meta device, from a pool: drawing them all takes long."""
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(0))
    state = {}
    for name, value in module.state_dict().items():
        count, scale = value.numel(), (value[0].numel() or 1) ** -0.5 if value.dim() > 1 else 0.1
        repeated = pool.repeat(count // POOL + 1)[:count] * scale
        norm = 1.0 if value.dim() == 1 and name.endswith("weight") else 0.0
        state[name] = (repeated + norm).view(value.shape).to(dtype)
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


def random_pair(dtype: torch.dtype) -> RecursiveModel:
    """The pair at full size."""
    vae = build_vae(VaeConfig((128, 256, 512, 512)))
    with torch.device("meta"):
        lgm = Lgm(LgmConfig(time_channels=128))
    own = ReconstructionModel(
        RECONSTRUCTIONS["ouroboros3d"], randomised(lgm, dtype), has_rotations=False
    )
    return RecursiveModel(
        FAMILIES["ouroboros3d"],
        randomised(FeedbackUNet(UNetConfig(feedback_factor=8), device="meta"), dtype),
        VaeCodec(randomised(vae, torch.float32)),
        nn.Identity(),  # the image encoder
        reconstruction=own,
    )


@dataclass(eq=False)
class TimedPlacement(RecursiveOnDevice):
    """Records CPU and wall time between the changes of the running part."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    part: str = ""
    start: tuple[float, float] = (0.0, 0.0)

    def load_to_device(self, part: str, activation_bytes: int) -> tuple[torch.device, torch.dtype]:
        """Loads the part, whose time then counts."""
        self.enter(part)
        return super().load_to_device(part, activation_bytes)

    def enter(self, part: str) -> None:
        """Ends the time of the present part."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = (time.process_time(), time.perf_counter())
        if self.part and part != self.part:
            cpu, wall = (b - a for a, b in zip(self.start, now, strict=True))
            total = self.seconds.setdefault(self.part, [0.0, 0.0])
            total[0], total[1] = total[0] + cpu, total[1] + wall
            print(f"{self.part}: {cpu:.1f} CPU s, {wall:.1f} s", flush=True)
        if part != self.part:
            self.part, self.start = part, now


def one_step(model: RecursiveModel, placement: TimedPlacement) -> int:
    """Runs one step; returns the number of splats."""
    family, config = model.family, SampleConfig(steps=1)
    size_px = family.size_px
    rig = cameras_from_orbit(preset_orbit(family.orbit, size_px, size_px))
    trajectory = plan_trajectory(family, size_px)
    side = size_px // model.codec.factor
    conditioning = Conditioning(
        torch.randn(1, 4, side, side),
        torch.randn(1, 1, 1024),
        added_embeds(family, trajectory)[None],
        feedback=initial_feedback(rig, size_px),
    )
    reconstruct = network_reconstruction(model, rig, placement, SILENT)

    def timed(views: Tensor, c_noise: float) -> Splats:
        splats = reconstruct(views, c_noise)
        placement.enter("rendering")
        return splats

    sigmas = sampling_process(family, config).evaluation_sigmas
    loop = FeedbackLoop(model, rig, sigmas, timed, config, RecursionConfig(), placement, SILENT)
    noise = torch.randn(1, 1, family.views, 4, side, side)
    with torch.no_grad():
        sample_latents(model, conditioning, trajectory, noise, config, placement, SILENT, loop)
    placement.enter("end")
    return len(loop.result.splats)


def main(settings: RecursionBenchmark) -> None:
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    device, load = resolve_device(settings.device), os.getloadavg()[0]
    model = random_pair(getattr(torch, settings.weights))
    dtype = torch.float32 if device.type == "cpu" else getattr(torch, settings.weights)
    placement = TimedPlacement(model, device, dtype)
    count = one_step(model, placement)
    rows = [[label, *placement.seconds.get(part, [0.0, 0.0])] for part, label in LABELS.items()]
    rows.append(["sum", *(sum(row[column] for row in rows) for column in (1, 2))])
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device.type == "cuda":
        peak_mib = torch.cuda.max_memory_allocated(device) / 2**20
    weights_mib = {
        name: sum(weight.nbytes for weight in model.part(part).parameters()) / 2**20
        for name, part in (
            ("UNet", "unet"), ("VAE", "codec"), ("reconstruction", "reconstruction")
        )
    }  # fmt: skip
    sizes = ", ".join(f"{name} {value:.0f} MiB" for name, value in weights_mib.items())
    page = ResultPage(
        title="A step of Ouroboros3D",
        summary=f"One step of recursive sampling at full size (8 views of 512 px, {count} splats), "
        f"random weights in {settings.weights}, {settings.threads} thread(s) on {device.type}: the "
        "UNet with and without the image, decoding, reconstruction, rendering. A sample takes 25 "
        "steps.",
        tables=[
            Table(
                [("part", ""), ("CPU s", ".1f"), ("wall s", ".1f")],
                rows,
                notes=[
                    f"Peak memory {peak_mib:.0f} MiB, all parts included. Weights: {sizes}.",
                    f"Load average of the machine at the start: {load:.1f}.",
                ],
            )
        ],
        command="python dev.py bench recursion",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        details={"peak_mib": peak_mib, "weights_mib": weights_mib, "load": load},
    )
    if settings.output:
        save_page(settings.output, "recursion", page)
    print(markdown_page(page, "recursion.json"))


if __name__ == "__main__":
    main(tyro.cli(RecursionBenchmark, description=__doc__))

"""What `generate` and `run` share: one image in, a model's views of its object out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from ..checks import check_bounds
from ..diffusion.families import GuidanceConfig, GuidanceKind
from ..diffusion.sampling.config import SampleConfig
from ..errors import StageError
from ..progress import Progress
from ..weights.discovery.built_in import NAME

if TYPE_CHECKING:
    import torch

    from ..cameras.cameras import Cameras
    from ..diffusion.families import Family
    from ..diffusion.sampling.pipeline import Sample

logger = logging.getLogger(__name__)

NumberFormat = Literal["auto", "float32", "float16", "bfloat16"]
LONGEST_PX = 4096
"""Images at least twice as long are reduced while they are read."""


@dataclass(frozen=True)
class GeneratedViews:
    """What a model painted of an image."""

    family: Family
    """The model's."""
    sample: Sample
    """Views and images."""
    seconds: dict[str, float]
    """Wall time of loading and sampling."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """The image, the model, and how to sample."""

    image: Positional[Path]
    """An image of the whole object: with alpha, on white, or with --mask."""
    model: Path = Path(NAME)
    """The model's file (NOVA3D, SV3D, V3D), or its name below the models folders; nova3d-mini: the
    small one that is built in."""
    mask: Path | None = None
    """An image that is white, or opaque, on the object."""
    folder: tuple[Path, ...] = ()
    """Where models lie; without any, NOVA3D_MODELS and ComfyUI's models folder."""
    seed: int = 0
    """Start of the noise."""
    steps: int | None = None
    """Denoising steps; the model's own if not given."""
    guidance: Literal["auto"] | GuidanceKind = "auto"
    """How strongly views follow the image; auto: as the model's authors have it."""
    lowest: float = 1.0
    """Guidance at the input view (triangle) or the first one (linear); not in auto."""
    highest: float = 2.5
    """Guidance at the back, at the last view, or everywhere; not in auto."""
    size_px: int | None = None
    """Width and height of the views; what the model was trained on if not given."""
    elevation_deg: float = 0.0
    """How far above the horizon the image was taken."""
    rise_deg: float = 0.0
    """SV3D p: rise and sink by so much once on the way round."""
    decode_chunk_size: int | None = None
    """Images decoded together; as many as fit into --memory-gib if not given."""
    memory_gib: float = 4.0
    """Memory that one decoding may take beside the weights."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, mps."""
    dtype: NumberFormat = "auto"
    """What the network computes in; auto: float32 on a CPU, float16 on a GPU."""
    overwrite: bool = False
    """Replace the output if it is there already."""
    json: bool = False
    """Say the result as JSON."""

    @property
    def inputs(self) -> tuple[Path | None, ...]:
        """The files that are read, which no output may replace."""
        return (self.image, self.mask, self.model)

    def paint(self, progress: Progress) -> GeneratedViews:
        """Reads the image, loads the model, samples."""
        import time

        from ..compute.devices import is_out_of_memory, resolve_device
        from ..diffusion.model import OneDevice
        from ..diffusion.sampling.pipeline import sample
        from ..io.images.images import read_image, read_mask
        from ..weights.discovery.built_in import recommended_files, resolve_model_file
        from ..weights.load import load_model

        check_bounds(
            self,
            "option",
            lowest=(0.0, 100.0),
            highest=(0.0, 100.0),
            elevation_deg=(-90.0, 90.0),
            rise_deg=(0.0, 90.0),
        )
        device = resolve_device(self.device)
        config = self._config()
        image = read_image(self.image, longest_px=LONGEST_PX)
        mask = None if self.mask is None else read_mask(self.mask, longest_px=LONGEST_PX)
        path = resolve_model_file(self.model, self.folder)
        dtype = self._dtype(device)
        # a GPU gets weights in the format it computes in; the CPU maps the file as it is
        kept = None if device.type == "cpu" else dtype
        start = time.perf_counter()
        model = load_model(path, dtype=kept, folders=self.folder, progress=progress)
        loaded = time.perf_counter()
        if model.family.name == NAME:
            logger.warning("%s", recommended_files())
        cameras = self._cameras(model.family)
        placement = OneDevice(model, device, dtype)
        try:
            made = sample(model, image, mask, config, cameras, placement, progress)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise StageError(
                "sampling",
                "memory ran out.",
                "Choose a smaller --size-px or --dtype float16, or close other programs.",
            ) from error
        seconds = {"loading": loaded - start, "sampling": time.perf_counter() - loaded}
        return GeneratedViews(model.family, replace(made, views=made.views.to("cpu")), seconds)

    def _config(self) -> SampleConfig:
        guidance = None
        if self.guidance != "auto":
            guidance = GuidanceConfig(self.guidance, self.lowest, self.highest)
        return SampleConfig(
            seed=self.seed,
            steps=self.steps,
            guidance=guidance,
            size_px=self.size_px,
            elevation_deg=self.elevation_deg,
            decode_chunk_size=self.decode_chunk_size,
            memory_gib=self.memory_gib,
        )

    def _dtype(self, device: torch.device) -> torch.dtype:
        import torch

        if self.dtype != "auto":
            return getattr(torch, self.dtype)
        return torch.float32 if device.type == "cpu" else torch.float16

    def _cameras(self, family: Family) -> Cameras | None:
        """The dynamic orbit, if one is asked for."""
        if not self.rise_deg:
            return None
        from ..cameras.cameras import cameras_from_orbit
        from ..cameras.orbits import ORBIT_PRESETS, OrbitConfig

        own = ORBIT_PRESETS[family.orbit].rig
        rig = replace(own, count=family.views, elevation_deg=self.elevation_deg)
        return cameras_from_orbit(OrbitConfig(rig, "sine", self.rise_deg))

"""Options of `generate` and `run`: multi-view sampling from one image."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from ..checks import check_bounds
from ..diffusion.families import GuidanceConfig, GuidanceKind
from ..diffusion.sampling.config import Framing, SampleConfig, SamplerName
from ..errors import InputError
from ..normals.config import EstimatorName
from ..progress import Progress
from ..recursion.config import FeedbackSource, RecursionConfig
from ..weights.discovery.built_in import BUILT_IN_NAME, resolve_model_file
from .failures import memory_errors

if TYPE_CHECKING:
    import torch

    from ..cameras.cameras import Cameras
    from ..diffusion.families import Family
    from ..diffusion.model import MultiviewModel
    from ..diffusion.sampling.pipeline import Sample
    from ..views import Views

logger = logging.getLogger(__name__)

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
MAX_IMAGE_PX = 4096
"""Images of at least twice this length are downsampled while they are read."""


def existing_model_file(name: Path | str, folders: Sequence[Path]) -> Path:
    """The file or folder of a model; see `resolve_model_file`.

    Raises:
        InputError: it does not exist.
    """
    path = resolve_model_file(name, folders)
    if not os.path.lexists(path):
        raise InputError(
            f"model file {path} does not exist.",
            "`python -m nova3d_core models` lists the installed and the published files; "
            "--folder selects the model folders.",
        )
    return path


def network_dtype(name: Dtype, device: torch.device) -> torch.dtype:
    """The dtype in which a network computes: as set, else float32 on a CPU and float16 on a GPU."""
    import torch

    if name != "auto":
        return getattr(torch, name)
    return torch.float32 if device.type == "cpu" else torch.float16


@dataclass(frozen=True)
class GeneratedViews:
    """The views that a model generated from an image."""

    family: Family
    """Family of the model."""
    sample: Sample
    """Views and images."""
    seconds: dict[str, float]
    """Wall time of loading and sampling."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """The image, the model, and the settings of sampling."""

    image: Positional[Path]
    """An image of the complete object, with alpha, on a white background, or with --mask."""
    model: Path = Path(BUILT_IN_NAME)
    """A model file (NOVA3D, Wonder3D, SV3D, V3D or Ouroboros3D's mv_model_unet.pth), or its name in
    the model folders; for Wonder3D also its folder; nova3d-mini is the small built-in model."""
    mask: Path | None = None
    """A mask image, white or opaque on the object."""
    folder: tuple[Path, ...] = ()
    """Model folders; NOVA3D_MODELS and ComfyUI's models folder if none are given."""
    seed: int = 0
    """Random seed."""
    steps: int | None = None
    """Denoising steps; the model's default if omitted."""
    sampler: SamplerName = "euler"
    """ODE solver: euler, as in the models' code; dpmpp_2m: second order, a smaller error with the
    same steps; heun: second order, two network evaluations per step, unusable with fewer than 10
    steps. Wonder3D always uses DDIM."""
    guidance: Literal["auto"] | GuidanceKind = "auto"
    """Schedule of classifier-free guidance over the views; auto: the model's default."""
    min_guidance_scale: float = 1.0
    """Guidance scale at the input view (triangle) or the first view (linear); not with auto."""
    max_guidance_scale: float = 2.5
    """Guidance scale at the back (triangle), the last view (linear) or all views (constant); not
    with auto."""
    size_px: int | None = None
    """Width and height of the views; the training size if omitted."""
    framing: Framing = "object"
    """object: crop the image to the object, at the size used in training; image: keep the image's
    own framing, padded to a square."""
    elevation_deg: float = 0.0
    """Elevation of the input image's camera. SV3D p is conditioned on it (its authors use 10); for
    the other models it only places the cameras, so that the mesh is upright."""
    elevation_amplitude_deg: float = 0.0
    """SV3D p: amplitude of the elevation, which follows one sine period along the orbit."""
    feedback: FeedbackSource = "both"
    """Ouroboros3D: renders of the reconstruction that the next step sees."""
    feedback_every: int = 1
    """Ouroboros3D: reconstruct after every n-th step, and after the last one."""
    decode_chunk_size: int | None = None
    """Maximum number of images decoded together; as many as fit into memory if omitted."""
    memory_gib: float | None = None
    """Memory budget of activations, without the weights; most of the free memory if omitted."""
    device: str = "cpu"
    """Device of the model: cpu, cuda, cuda:1, mps."""
    dtype: Dtype = "auto"
    """Dtype of the network; auto: float32 on a CPU, float16 on a GPU."""
    normals: EstimatorName | None = None
    """Estimate the normals of the views, for models that generate colours only: marigold (each view
    on its own) or normalcrafter (all views together). Their folders are searched for in the model
    folders."""
    normals_folder: Path | None = None
    """Folder of the normal estimator, if it is elsewhere."""
    overwrite: bool = False
    """Replace existing outputs."""
    json: bool = False
    """Print the result as JSON."""

    @property
    def inputs(self) -> tuple[Path | None, ...]:
        """The input files, which no output may replace."""
        return (self.image, self.mask, self.model)

    def generate(self, progress: Progress) -> GeneratedViews:
        """Reads the image, loads the model and samples views."""
        import time

        from ..compute.devices import resolve_device
        from ..io.images.images import read_image, read_mask
        from ..recursion.load import is_recursive, load_recursive
        from ..weights.discovery.built_in import recommended_files
        from ..weights.load import load_model

        check_bounds(
            self,
            "option",
            min_guidance_scale=(0.0, 100.0),
            max_guidance_scale=(0.0, 100.0),
            elevation_deg=(-90.0, 90.0),
            elevation_amplitude_deg=(0.0, 90.0),
        )
        device = resolve_device(self.device)
        config = self._config()
        image = read_image(self.image, longest_px=MAX_IMAGE_PX)
        mask = None if self.mask is None else read_mask(self.mask, longest_px=MAX_IMAGE_PX)
        path = existing_model_file(self.model, self.folder)
        estimator_folder = self._estimator_folder()
        dtype = network_dtype(self.dtype, device)
        # cast weights for a GPU while loading; memory-map the file for the CPU
        load_dtype = None if device.type == "cpu" else dtype
        start = time.perf_counter()
        self.check_model(path)
        load = load_recursive if is_recursive(path) else load_model
        model = load(path, dtype=load_dtype, folders=self.folder, progress=progress)
        loaded = time.perf_counter()
        if model.family.name == BUILT_IN_NAME:
            logger.warning("%s", recommended_files())
        hint = "Use a smaller --size-px or --dtype float16, or close other programs."
        with memory_errors("sampling", hint):
            result = self._sample(model, image, mask, config, (device, dtype), progress)
        seconds = {"loading": loaded - start, "sampling": time.perf_counter() - loaded}
        family, views = model.family, result.views.to("cpu")
        if estimator_folder is not None:
            del model  # frees the memory of the device
            views = self._estimate_normals(views, estimator_folder, device, dtype, progress)
            seconds["normals"] = time.perf_counter() - loaded - seconds["sampling"]
        return GeneratedViews(family, replace(result, views=views), seconds)

    def check_model(self, path: Path) -> None:
        """Raises InputError for options that have no effect with the model of this file."""
        from ..recursion.load import is_recursive

        if (self.feedback, self.feedback_every) != ("both", 1) and not is_recursive(path):
            raise InputError(
                f"--feedback and --feedback-every have no effect with {path}.",
                "They are for Ouroboros3D's mv_model_unet.pth.",
            )

    def _sample(
        self,
        model: MultiviewModel,
        image: torch.Tensor,
        mask: torch.Tensor | None,
        config: SampleConfig,
        placed: tuple[torch.device, torch.dtype],
        progress: Progress,
    ) -> Sample:
        """The model's sample; with splats if it is Ouroboros3D."""
        from ..diffusion.model import OneDevice
        from ..diffusion.sampling.pipeline import sample
        from ..recursion.model import RecursiveModel, RecursiveOnDevice
        from ..recursion.sample import sample_recursive

        cameras = self._cameras(model.family)
        if isinstance(model, RecursiveModel):
            recursion = RecursionConfig(self.feedback, self.feedback_every)
            placement = RecursiveOnDevice(model, *placed)
            return sample_recursive(model, image, mask, config, recursion, placement, progress)
        return sample(model, image, mask, config, cameras, OneDevice(model, *placed), progress)

    def _estimator_folder(self) -> Path | None:
        """Folder of the normal estimator; found before the views are sampled."""
        from ..weights.discovery.estimators import find_estimator_folder

        if self.normals is None:
            if self.normals_folder is not None:
                raise InputError("--normals-folder is given without --normals.")
            return None
        return self.normals_folder or find_estimator_folder(self.normals, self.folder)

    def _estimate_normals(
        self,
        views: Views,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress,
    ) -> Views:
        from ..normals.config import EstimateConfig
        from ..normals.estimate import estimate_normals
        from ..normals.load import load_estimator

        estimator = load_estimator(
            self.normals,
            folder,
            folders=self.folder,
            device=device,
            dtype=dtype,
            config=EstimateConfig(seed=self.seed),
            progress=progress,
        )
        return estimate_normals(views, estimator, progress)

    def _config(self) -> SampleConfig:
        guidance = None
        if self.guidance != "auto":
            guidance = GuidanceConfig(
                self.guidance, self.min_guidance_scale, self.max_guidance_scale
            )
        return SampleConfig(
            seed=self.seed,
            steps=self.steps,
            sampler=self.sampler,
            guidance=guidance,
            size_px=self.size_px,
            framing=self.framing,
            elevation_deg=self.elevation_deg,
            decode_chunk_size=self.decode_chunk_size,
            memory_gib=self.memory_gib,
        )

    def _cameras(self, family: Family) -> Cameras | None:
        """The cameras of an orbit of varying elevation; None for the model's default orbit."""
        if not self.elevation_amplitude_deg:
            return None
        if not family.free_angles:
            raise InputError(
                f"--elevation-amplitude-deg is {self.elevation_amplitude_deg:g}, but "
                f"{family.label} generates views at a constant elevation.",
                "Omit it; only SV3D p supports varying elevations.",
            )
        from ..cameras.cameras import cameras_from_orbit
        from ..cameras.orbits import ORBIT_PRESETS, OrbitConfig

        own = ORBIT_PRESETS[family.orbit].rig
        rig = replace(own, count=family.views, elevation_deg=self.elevation_deg)
        return cameras_from_orbit(OrbitConfig(rig, "sine", self.elevation_amplitude_deg))

"""`sample-path`: views along a camera path, from posed images of a scene."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..checks import check_between, check_bounds
from ..diffusion.families import SCENE_FAMILY, GuidanceConfig
from ..diffusion.sampling.config import SampleConfig, SamplerName
from ..errors import InputError
from ..progress import Progress
from .console import print_json, print_out
from .failures import memory_errors
from .sampling import Dtype, existing_model_file, network_dtype

if TYPE_CHECKING:
    import torch

    from ..cameras.cameras import Cameras
    from ..diffusion.scenes.model import SceneModel
    from ..views import Views

DEFAULT_VIEWS = 24
"""Length of the default path."""


@dataclass(frozen=True, kw_only=True)
class SamplePath:
    """Generate views of a scene along a camera path from a few posed images of it."""

    sources: Positional[Path]
    """Folder of the posed images: a transforms.json or a COLMAP model."""
    model: Path
    """A model for scenes, trained with `train v3d_scenes` and exported, or its name in the model
    folders. None is published."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")]
    """The output folder, for a transforms.json and the images."""
    use: tuple[int, ...] = ()
    """Indices of the images that are sources; all if omitted. Models are trained with 1 to 4."""
    cameras: Path | None = None
    """Folder of views, or transforms.json, whose cameras are the path, in the world of the sources.
    Default: a path from the first source through the others to the last."""
    views: int | None = None
    """Number of cameras of the default path; 24 if omitted."""
    folder: tuple[Path, ...] = ()
    """Model folders; NOVA3D_MODELS and ComfyUI's models folder if none are given."""
    seed: int = 0
    """Random seed."""
    steps: int | None = None
    """Denoising steps; the model's default if omitted."""
    sampler: SamplerName = "euler"
    """ODE solver; see `generate --help`."""
    guidance_scale: float = SCENE_FAMILY.guidance.max_guidance_scale
    """Scale of classifier-free guidance, for all views; 1 for none."""
    size_px: int | None = None
    """Width and height of the views; the training size if omitted."""
    memory_gib: float | None = None
    """Memory budget of activations, without the weights; most of the free memory if omitted."""
    device: str = "cpu"
    """Device of the model: cpu, cuda, cuda:1, mps."""
    dtype: Dtype = "auto"
    """Dtype of the network; auto: float32 on a CPU, float16 on a GPU."""
    overwrite: bool = False
    """Replace existing outputs."""
    json: bool = False
    """Print the result as JSON."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
        from ..compute.devices import resolve_device
        from ..diffusion.model import OneDevice
        from ..diffusion.scenes.sample import sample_path
        from ..io.files.atomic import check_can_write_folder
        from ..io.views.transforms_json import FOLDER_CONTENT, write_views

        check_bounds(self, "option", guidance_scale=(0.0, 100.0))
        if self.views is not None:
            check_between("option views", self.views, 1, 4096)
            if self.cameras is not None:
                raise InputError(
                    "--views is the length of the default path, but --cameras gives the path.",
                    "Omit one of both.",
                )
        inputs = (self.sources, self.cameras, self.model)
        check_can_write_folder(self.output, self.overwrite, FOLDER_CONTENT, inputs)
        device = resolve_device(self.device)
        sources = self._sources(progress)
        path = self._path(sources, progress)
        start = time.perf_counter()
        model, dtype = self._load(device, progress)
        placement = OneDevice(model, device, dtype)
        with memory_errors("sampling the path", "Use --dtype float16 or a smaller --size-px."):
            result = sample_path(model, sources, path, self._config(), placement, progress)
        seconds = time.perf_counter() - start
        write_views(result.views, self.output, self.overwrite, progress)
        count, size_px = len(result.views), result.views.cameras.width
        if self.json:
            document = {"output": str(self.output), "views": count, "size_px": size_px}
            print_json({**document, "sources": len(sources), "seconds": seconds})
        else:
            print_out(f"{count} views of {size_px} px in {self.output} ({seconds:.1f} s)")

    def _config(self) -> SampleConfig:
        scale = self.guidance_scale
        return SampleConfig(
            seed=self.seed,
            steps=self.steps,
            sampler=self.sampler,
            guidance=GuidanceConfig("constant", scale, scale),
            size_px=self.size_px,
            memory_gib=self.memory_gib,
        )

    def _sources(self, progress: Progress) -> Views:
        """The posed images that are sources."""
        from ..io.views.transforms_json import read_views

        views = read_views(self.sources, progress)
        outside = [index for index in self.use if not 0 <= index < len(views)]
        if outside:
            raise InputError(
                f"--use has {outside[0]}, but {self.sources} has {len(views)} images: 0 to "
                f"{len(views) - 1}."
            )
        return views[list(self.use)] if self.use else views

    def _path(self, sources: Views, progress: Progress) -> Cameras:
        """The cameras of the path."""
        from ..cameras.paths import path_through
        from ..io.views.transforms_json import read_views, world_up

        if self.cameras is None:
            return path_through(sources.cameras, self.views or DEFAULT_VIEWS)
        return read_views(self.cameras, progress, world_up(self.sources)).cameras

    def _load(self, device: torch.device, progress: Progress) -> tuple[SceneModel, torch.dtype]:
        """The model, and the dtype in which its UNet computes.

        Raises:
            InputError: the file holds another model.
        """
        from ..diffusion.scenes.model import check_scene_model
        from ..weights.load import load_model

        dtype = network_dtype(self.dtype, device)
        path = existing_model_file(self.model, self.folder)
        model = load_model(path, dtype=dtype, folders=self.folder, progress=progress)
        return check_scene_model(model), dtype

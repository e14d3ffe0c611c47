"""Options of `splats` with a reconstruction model: one forward pass instead of a fit."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from ..errors import InputError
from ..progress import Progress
from ..reconstruction.config import ReconstructConfig
from .failures import memory_errors
from .sampling import Dtype, existing_model_file, network_dtype

if TYPE_CHECKING:
    import torch

    from ..reconstruction.reconstruct import Reconstruction
    from ..views import Views


@dataclass(frozen=True, kw_only=True)
class ReconstructionOptions:
    """A reconstruction model, and its settings."""

    model: Path | None = None
    """Make the splats of four of the views in one pass of this model instead of fitting them: LGM's
    model_fp16_fixrot.safetensors or Ouroboros3D's recon_model.pth, or its name in the model
    folders."""
    folder: tuple[Path, ...] = ()
    """Model folders, with --model; NOVA3D_MODELS and ComfyUI's models folder if none are given."""
    dtype: Dtype = "auto"
    """Dtype of the network, with --model; auto: float32 on a CPU, float16 on a GPU."""
    settings: Annotated[ReconstructConfig, arg(name="")] = field(default_factory=ReconstructConfig)
    """Settings, with --model."""

    def check(self, fit_settings_are_default: bool) -> None:
        """Raises InputError for options that have no effect."""
        if self.model is not None and not fit_settings_are_default:
            raise InputError(
                "settings of the fit have no effect with --model.",
                "Omit --model to fit the splats, or the other options to use the model.",
            )
        if self.model is None and self != ReconstructionOptions():
            raise InputError(
                "--folder, --dtype, --framing and --rotations have no effect without --model.",
                "Pass a reconstruction model, such as LGM's model_fp16_fixrot.safetensors.",
            )

    def reconstruct(
        self, views: Views, device: torch.device, progress: Progress
    ) -> tuple[Reconstruction, dict[str, float]]:
        """The splats of the views, and the wall time of loading and of the forward pass."""
        from ..reconstruction.load import load_reconstruction
        from ..reconstruction.model import ReconstructionOnDevice
        from ..reconstruction.reconstruct import reconstruct_splats

        path = existing_model_file(self.model, self.folder)
        dtype = network_dtype(self.dtype, device)
        start = time.perf_counter()
        model = load_reconstruction(path, dtype=dtype, progress=progress)
        loaded = time.perf_counter()
        placement = ReconstructionOnDevice(model, device, dtype)
        hint = "Use --dtype float16, or close other programs."
        with memory_errors("reconstructing splats", hint):
            result = reconstruct_splats(model, views, self.settings, placement, progress)
        seconds = {"loading": loaded - start, "reconstructing": time.perf_counter() - loaded}
        return result, seconds

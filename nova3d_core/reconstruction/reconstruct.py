"""Gaussian splats from views in one forward pass."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..diffusion.sampling.fp32_fallback import with_fp32_fallback
from ..diffusion.sampling.interrupt import check_before_blocks
from ..errors import StageError
from ..progress import SILENT, Progress
from ..splats import Splats
from ..views import Views
from ..wording import setting
from .activations import activate
from .config import MIN_OPACITY, RECONSTRUCTION, ReconstructConfig
from .cost import activation_bytes, estimate_cpu_seconds
from .framing import frame_views
from .model import ReconstructionModel, ReconstructionOnDevice
from .network import Lgm, MultiviewAttention, ResidualBlock
from .rays import plucker_rays
from .select import select_views

logger = logging.getLogger(__name__)

STAGE = "reconstructing splats"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SLOW_S = 60.0
"""Warn before a pass on a CPU that is estimated to take longer."""
_BLOCKS = (ResidualBlock, MultiviewAttention)


class ReconstructionPlacement(Protocol):
    """The part of a `diffusion.model.Placement` that `reconstruct_splats` uses."""

    def load_to_device(self, part: str, activation_bytes: int) -> tuple[torch.device, torch.dtype]:
        """Makes the part ready to run; returns device and dtype of its input."""


@dataclass(frozen=True)
class ReconstructionReport:
    """Statistics of a reconstruction."""

    model: str
    """Display name of the model."""
    count: int
    """Number of splats."""
    removed: int
    """Splats that were removed because they are nearly transparent."""
    views: tuple[int, ...]
    """Indices of the views that the model saw."""
    rotations: str
    """"normalised" or "identity"."""
    scale: float
    """The model's units per unit of the world."""
    perspective_error_px: float
    """Largest error of the re-framed views, in pixels of the model's images."""
    size_px: int
    """Width and height of the model's images."""

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON document."""
        return {**asdict(self), "views": list(self.views)}

    def to_text(self) -> str:
        """The report in lines that fit ComfyUI's Preview as Text."""
        removed = f", {self.removed} transparent ones removed" if self.removed else ""
        rotations = "" if self.rotations == "normalised" else ", without rotations"
        lines = [
            f"{self.count} splats by {self.model}{removed}{rotations}",
            f"views {', '.join(map(str, self.views))}",
            f"perspective exact to {self.perspective_error_px:.1f} of {self.size_px} px",
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Splats of an object, and how they were made."""

    splats: Splats
    """N splats in the world of the views."""
    report: ReconstructionReport
    """Views, scale and errors."""


def reconstruct_splats(
    model: ReconstructionModel,
    views: Views,
    config: ReconstructConfig | None = None,
    placement: ReconstructionPlacement | None = None,
    progress: Progress = SILENT,
) -> Reconstruction:
    """Gaussian splats of the object that views show, from four of them.

    Args:
        model: a loaded model.
        views: at least four views around the object; those nearest to azimuths 0, 90, 180 and 270
            from the first one are used.
        config: framing and rotations.
        placement: device and dtype of the network; the CPU, in the dtype of its weights, if None.
        progress: reports each block of the network; a cancellation takes effect at the next one.

    Raises:
        InputError: too few views or views from unusable directions, no masks and no white
            background, an empty mask.
        StageError: the model returned NaN or infinite values, in float32 too, or nothing opaque.
        Cancelled: the user cancelled.
    """
    config = config or ReconstructConfig()
    placement = placement or ReconstructionOnDevice(model, torch.device("cpu"))
    selected = select_views(views.cameras)
    framed = frame_views(views[selected], model.family, config.framing)
    x = network_input(framed.images[None], framed.cameras)
    features = predict_features(model, x, placement, progress)
    has_rotations = _resolve_rotations(model, config)
    splats = activate(features, has_rotations).of_object(0)
    is_visible = splats.opacities >= MIN_OPACITY
    if not bool(is_visible.any()):
        raise StageError(
            STAGE,
            f"{model.family.label} returned no visible splat.",
            "Check that the views show the object on white, and the model's file.",
        )
    kept = framed.to_world(splats[is_visible])
    report = ReconstructionReport(
        model=model.family.label,
        count=len(kept),
        removed=len(splats) - len(kept),
        views=tuple(selected),
        rotations="normalised" if has_rotations else "identity",
        scale=framed.scale,
        perspective_error_px=framed.perspective_error_px,
        size_px=model.family.size_px,
    )
    return Reconstruction(kept, report)


def network_input(images: Tensor, cameras: Cameras) -> Tensor:
    """(B, 4, 9, S, S) normalised colours and Pluecker rays.

    Args:
        images: (B, 4, 3, S, S) sRGB in 0..1, on white.
        cameras: V = 4 in the model's world, the same for all objects.
    """
    mean, std = (images.new_tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    rays = plucker_rays(cameras).to(images)  # (4, 6, S, S)
    rays = rays.expand(len(images), *rays.shape)
    return torch.cat([(images - mean) / std, rays], dim=2)


def predict_features(
    model: ReconstructionModel,
    x: Tensor,
    placement: ReconstructionPlacement,
    progress: Progress,
    c_noise: float | None = None,
) -> Tensor:
    """The network's output (1, 4, 14, h, w) for (1, 4, 9, S, S), float32 on the CPU.

    Args:
        model: a loaded model.
        x: of `network_input`.
        placement: device and dtype of the network.
        progress: reports each block; a cancellation takes effect at the next one.
        c_noise: noise level ln(sigma) / 4 of the views; None for clean views.

    Raises:
        StageError: the output is NaN or infinite, in float32 too.
        Cancelled: the user cancelled.
    """
    size_px = model.family.size_px
    device, dtype = placement.load_to_device(
        RECONSTRUCTION, activation_bytes(model.network, size_px, torch.float16)
    )
    if device.type == "cpu" and c_noise is None:
        _warn_if_slow(model.network, size_px, dtype)
    level = None if c_noise is None else torch.tensor([c_noise], device=device)

    def attempt(dtype: torch.dtype) -> Tensor:
        placement.load_to_device(RECONSTRUCTION, activation_bytes(model.network, size_px, dtype))
        total = _block_count(model.network)
        with torch.no_grad(), _reporting_blocks(model.network, progress):
            features = model.network(x.to(device, dtype), level).cpu()
        progress.update(STAGE, total, total)
        return features

    return with_fp32_fallback(STAGE, attempt, dtype, model.source)


def _reporting_blocks(network: Lgm, progress: Progress) -> Any:
    """Context in which each block of the network is reported before it runs."""
    total, done = _block_count(network), 0

    def report() -> None:
        nonlocal done
        progress.update(STAGE, done, total)
        done += 1

    return check_before_blocks(network, report, _BLOCKS)


def _block_count(network: Lgm) -> int:
    return sum(isinstance(module, _BLOCKS) for module in network.modules())


def _warn_if_slow(network: Lgm, size_px: int, dtype: torch.dtype) -> None:
    """Logs the estimated time on this CPU, as a warning if it is long."""
    seconds = estimate_cpu_seconds(network, size_px, dtype)
    level = logging.WARNING if seconds > SLOW_S else logging.INFO
    logger.log(
        level,
        "reconstructing splats on the CPU takes about %d seconds; a GPU takes less than one.",
        max(round(seconds), 1),
    )


def _resolve_rotations(model: ReconstructionModel, config: ReconstructConfig) -> bool:
    """Whether quaternions are normalised one by one; warns where the file does not tell."""
    if config.rotations != "auto":
        return config.rotations == "normalised"
    if model.has_rotations is None:
        logger.warning(
            "%s does not tell whether it is LGM from before or after the fix of its rotations, "
            "which show in its name only; rotations are used. If splats stick out at random, set "
            "%s.",
            model.source or "the model",
            setting("rotations", "identity"),
        )
        return True
    return model.has_rotations

"""From the estimate of one sampling step to splats, their renders, and the next step's feedback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..cameras.cameras import Cameras
from ..diffusion.coordinate_maps import coordinate_maps
from ..diffusion.model import Placement
from ..diffusion.network.feedback_unet import Feedback
from ..diffusion.sampling.config import SampleConfig
from ..diffusion.sampling.pipeline import FeedbackStep, decode_signed
from ..diffusion.sampling.preview import image_grid
from ..diffusion.sampling.schedule import preconditioning
from ..errors import InputError
from ..progress import Progress
from ..reconstruction.activations import activate
from ..reconstruction.config import RECONSTRUCTION, VIEW_COUNT
from ..reconstruction.cost import activation_bytes
from ..reconstruction.reconstruct import network_input, predict_features
from ..splats import Splats
from ..splatting.constants import RELEASED_BLUR_PX2
from ..splatting.memory import check_render_memory
from ..splatting.render import render_splats
from .config import RecursionConfig
from .model import RecursiveModel

PREVIEW_VIEW_PX = 128
"""Views of a preview are subsampled to at most this size."""


@dataclass(frozen=True, eq=False)
class SplatRenders:
    """Renders of splats in V cameras, as the network was trained with."""

    colours: Tensor
    """(V, 3, H, W) in 0..1, on white."""
    depths: Tensor
    """(V, H, W) accumulated depth, not divided by the opacity."""
    opacities: Tensor
    """(V, H, W) in 0..1."""


@dataclass(frozen=True, eq=False)
class StepResult:
    """What one step's estimate shows."""

    images: Tensor
    """(V, 3, S, S) generated views in 0..1, on the CPU."""
    splats: Splats
    """In the world of the model, on the CPU, transparent ones included."""
    renders: SplatRenders
    """Of the splats, on the CPU."""


Reconstruct = Callable[[Tensor, float], Splats]
"""Splats, in the model's world, of views (V, 3, S, S) in about 0..1 at c_noise = ln(sigma) / 4."""


def render_feedback(splats: Splats, cameras: Cameras, progress: Progress) -> SplatRenders:
    """Renders splats in V cameras; raises InputError if they do not fit into memory."""
    check_render_memory(len(splats), cameras, splats.positions.device)
    colours, depths, opacities = [], [], []
    for view in progress.track(range(len(cameras)), "rendering splats", len(cameras)):
        image = render_splats(**vars(splats), camera=cameras[view], blur_px2=RELEASED_BLUR_PX2)
        colours.append(image.on(1.0).clamp(0.0, 1.0).movedim(-1, 0))
        depths.append(image.depth)
        opacities.append((1.0 - image.transmittance).clamp(0.0, 1.0))
    return SplatRenders(torch.stack(colours), torch.stack(depths), torch.stack(opacities))


def reconstruction_views(model: RecursiveModel) -> list[int]:
    """Indices of the views that the reconstruction sees: every V / 4-th.

    Raises:
        InputError: the number of views is not a multiple of 4.
    """
    views = model.family.views
    if views % VIEW_COUNT:
        raise InputError(
            f"{model.family.label} generates {views} views, but its reconstruction needs "
            f"{VIEW_COUNT} of them at even steps.",
            "Use a model that generates 8 views.",
        )
    return list(range(0, views, views // VIEW_COUNT))


def network_reconstruction(
    model: RecursiveModel, cameras: Cameras, placement: Placement, progress: Progress
) -> Reconstruct:
    """The reconstruction by the model's own network; its splats are on the network's device.

    Args:
        model: the pair.
        cameras: V cameras in the model's world.
        placement: loads the network.
        progress: checked at each block of the network.
    """
    own, selected = model.reconstruction, reconstruction_views(model)
    size_px = own.family.size_px
    inputs = cameras[selected].resized(size_px, size_px)

    def reconstruct(views: Tensor, c_noise: float) -> Splats:
        images = functional.interpolate(
            views[selected], size=(size_px, size_px), mode="bilinear", align_corners=False
        )
        x = network_input(images[None], inputs)
        features = predict_features(own, x, placement, progress, c_noise)
        needed = activation_bytes(own.network, size_px, torch.float16)
        device, _ = placement.load_to_device(RECONSTRUCTION, needed)
        return activate(features, bool(own.has_rotations)).of_object(0).to(device)

    return reconstruct


def initial_feedback(cameras: Cameras, size_px: int) -> Feedback:
    """The feedback before the first reconstruction: zeros, and the cameras of one object."""
    zeros = torch.zeros(1, len(cameras), 3, size_px, size_px)
    focal = cameras.intrinsics[:, 0, 0] / cameras.width
    return Feedback(zeros, zeros, cameras.camera_to_world[None].float(), focal[None].float())


class FeedbackLoop:
    """Called after each step of the sampling: decode, reconstruct, render, feed back.

    Args:
        model: the pair.
        cameras: V cameras in the model's world, in the size of the views.
        sigmas: noise level of each evaluation.
        reconstruct: makes splats of the views.
        settings: of the sampling, for decoding.
        config: what is fed back, and how often.
        placement: loads the parts.
        progress: checked within a step; it reports nothing of it.

    Attributes:
        result: of the latest reconstruction; the last step always makes one.
        count: number of reconstructions.
    """

    def __init__(
        self,
        model: RecursiveModel,
        cameras: Cameras,
        sigmas: list[float],
        reconstruct: Reconstruct,
        settings: SampleConfig,
        config: RecursionConfig,
        placement: Placement,
        progress: Progress,
    ):
        self._model, self._cameras, self._sigmas = model, cameras, sigmas
        self._reconstruct, self._settings, self._config = reconstruct, settings, config
        self._placement, self._progress = placement, progress
        self.result: StepResult | None = None
        self.count = 0

    def __call__(self, done: int, denoised: Tensor) -> FeedbackStep | None:
        """The feedback of an estimate (1, 1, V, C, h, w); None in steps without reconstruction."""
        if done == 1:  # a second attempt in float32 starts anew
            self.count = 0
        is_last = done == len(self._sigmas)
        is_due = self._config.feedback != "none" and done % self._config.every == 0
        if not (is_due or is_last):
            return None
        signed = decode_signed(
            self._model, denoised, self._settings, self._placement, self._progress
        )
        views = signed * 0.5 + 0.5  # not clamped, as in training
        splats = self._reconstruct(views, preconditioning(self._sigmas[done - 1]).c_noise)
        renders = render_feedback(splats, self._cameras, self._progress)
        renders = SplatRenders(**{name: value.cpu() for name, value in vars(renders).items()})
        images = views.clamp(0.0, 1.0)
        self.result, self.count = StepResult(images, splats.to("cpu"), renders), self.count + 1
        return FeedbackStep(self.feedback(renders), lambda: _preview(images, renders.colours))

    def feedback(self, renders: SplatRenders) -> Feedback:
        """The renders as the network's input; zeros instead of what is not fed back."""
        empty = initial_feedback(self._cameras, self._cameras.width)
        maps = coordinate_maps(
            renders.depths,
            renders.opacities,
            empty.camera_to_world[0],
            empty.focal[0],
            self._model.coordinates,
        )
        source = self._config.feedback
        return Feedback(
            renders.colours[None] if source in ("both", "colour") else empty.colours,
            maps[None] if source in ("both", "coordinates") else empty.coordinates,
            empty.camera_to_world,
            empty.focal,
        )


def _preview(images: Tensor, renders: Tensor) -> Tensor:
    """Grid (H, W, 3) of the generated views, and of the renders below them."""
    step = max(images.shape[-1] // PREVIEW_VIEW_PX, 1)
    rows = torch.stack([images, renders])[..., ::step, ::step].movedim(2, -1)  # (2, V, s, s, 3)
    return image_grid(rows)

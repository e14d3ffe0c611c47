"""The pair of networks as one module, whose forward pass is a whole training step.

One pass of the multi-view network, the reconstruction of its estimate, and, for some objects, a
second pass that sees the renders. Launchers wrap the module, so gradients of all parts are
synchronised together.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...diffusion.coordinate_maps import coordinate_maps
from ...diffusion.families import Family
from ...diffusion.model import Codec, ImageEncoder
from ...diffusion.network.feedback_unet import Feedback, FeedbackUNet
from ...perceptual.lpips import Lpips
from ...reconstruction.activations import RawSplats, activate
from ...reconstruction.config import FAMILIES as RECONSTRUCTION_FAMILIES
from ...reconstruction.config import VIEW_COUNT
from ...reconstruction.model import ReconstructionModel
from ...reconstruction.network import Lgm
from ...reconstruction.reconstruct import network_input
from ...recursion.model import RecursiveModel
from ...splatting.constants import RELEASED_BLUR_PX2
from ...splatting.render import render_splats
from ..losses import edm_loss, expand_sigmas
from ..train_module import TrainModule
from .cameras import cameras_of, focal_per_width, single_cameras
from .config import FAMILY, JointConfig


@dataclass(frozen=True, eq=False)
class JointInputs:
    """Inputs of a training step for B objects with V views."""

    x: Tensor
    """(1, B, V, 2 C, h, w) scaled noisy latents and the input image's latent, compute dtype."""
    scaled: Tensor
    """(1, B, V, C, h, w) float32 scaled noisy latents."""
    clean: Tensor
    """(1, B, V, C, h, w) float32 scaled latents."""
    noise: Tensor
    """(1, B, V, C, h, w) standard normal noise."""
    sigmas: Tensor
    """(B,) noise levels."""
    image: Tensor
    """(B, 3, S, S) input images in -1..1 if the encoder is trained, else embeddings (B, 1, Cc)."""
    keep_embedding: Tensor
    """(B,) 1, or 0 where the embedding is dropped."""
    added_embeds: Tensor
    """(B, V, A) sinusoidal embeddings."""
    views: Tensor
    """(B, V, 3, S, S) true images in 0..1, on white."""
    poses: Tensor
    """(B, V, 4, 4) world-to-camera poses in the world of the model."""
    has_feedback: Tensor
    """(B,) bool, whether the object has a second pass."""

    def of_objects(self, chosen: Tensor) -> JointInputs:
        """Some of the objects, by their indices."""
        axes = {"x": 1, "scaled": 1, "clean": 1, "noise": 1}
        values = {
            each.name: getattr(self, each.name).index_select(axes.get(each.name, 0), chosen)
            for each in fields(self)
        }
        return JointInputs(**values)


@dataclass(frozen=True, eq=False)
class Renders:
    """Renders of B objects in V cameras; differentiable."""

    colours: Tensor
    """(B, V, 3, S, S) in 0..1, on white."""
    depths: Tensor
    """(B, V, S, S) accumulated depth, not divided by the opacity."""
    opacities: Tensor
    """(B, V, S, S) in 0..1."""

    def of_objects(self, chosen: Tensor | slice) -> Renders:
        """Some of the objects."""
        return Renders(self.colours[chosen], self.depths[chosen], self.opacities[chosen])


class JointModule(TrainModule):
    """UNet, image encoder and reconstruction network.

    Args:
        unet: the multi-view network.
        encoder, codec, family: as of `TrainModule`.
        reconstruction: LGM with time embedding; cast to float32 and trained.
        config: feedback and losses.
        lpips: the perceptual loss of the renders, frozen; None for L1 alone.
    """

    def __init__(
        self,
        unet: FeedbackUNet,
        encoder: ImageEncoder,
        codec: Codec,
        family: Family,
        reconstruction: Lgm,
        config: JointConfig,
        lpips: Lpips | None = None,
    ):
        super().__init__(unet, encoder, codec, family)
        self.reconstruction = reconstruction.float().requires_grad_(True)
        self.config = config
        self._unregistered = (*self._unregistered, lpips)

    def model(self, source: str = "", size_px: int | None = None) -> RecursiveModel:
        """The pair as a model that can be sampled, not copied; see `TrainModule.model`."""
        views = super().model(source, size_px)
        own = replace(RECONSTRUCTION_FAMILIES[FAMILY], size_px=self.config.reconstruction_size_px)
        return RecursiveModel(
            views.family,
            views.unet,
            views.codec,
            views.image_encoder,
            source,
            reconstruction=ReconstructionModel(own, self.reconstruction, source, False),
            coordinates=self.config.coordinates,
        )

    @property
    def frozen(self) -> tuple[nn.Module, ...]:
        """Frozen modules that have to be moved to the device."""
        parts = (self.codec, self.image_encoder, self._unregistered[2])
        return tuple(part for part in parts if part is not None)

    def forward(self, inputs: JointInputs) -> Tensor:
        """Losses (2, B) float32: of the multi-view network, and of the renders.

        The first pass of objects that have a second one needs no gradient, because the second one's
        loss replaces its loss, and its estimate is decoded without gradient. The gradient of the
        second pass reaches the reconstruction network through colours and depths of the renders.
        """
        predictions = self._first_pass(inputs)
        estimate = denoised(predictions, inputs)
        with torch.no_grad():
            flat = self.codec.decode(estimate.flatten(0, 2), inputs.x.shape[2])
        generated = (flat.float() * 0.5 + 0.5).view_as(inputs.views)  # not clamped
        c_noise = 0.25 * inputs.sigmas.log()
        both = torch.cat([generated, inputs.views])  # (2 B, V, 3, S, S)
        poses = torch.cat([inputs.poses, inputs.poses])
        levels = torch.cat([c_noise, torch.zeros_like(c_noise)])
        splats = self.reconstruct(both, levels, poses, inputs.x.dtype)
        renders = render(splats, poses, inputs.views.shape[-1])
        count = len(inputs.views)
        targets = torch.cat([inputs.views, inputs.views])
        reconstruction = self._render_loss(renders.colours, targets).unflatten(0, (2, count))
        noisy = renders.of_objects(slice(count))
        diffusion = self._diffusion_losses(inputs, predictions, noisy)
        return torch.stack([diffusion, reconstruction.mean(dim=0)])

    def reconstruct(
        self, images: Tensor, c_noise: Tensor, poses: Tensor, dtype: torch.dtype = torch.float32
    ) -> RawSplats:
        """Splats of images (B, V, 3, S, S) in about 0..1, in the world of the model.

        Args:
            images: all views; every V / 4-th is used.
            c_noise: (B,) ln(sigma) / 4; 0 for clean images.
            poses: (B, V, 4, 4) world-to-camera.
            dtype: compute dtype of the network.
        """
        views, size_px = images.shape[1], self.config.reconstruction_size_px
        chosen = list(range(0, views, views // VIEW_COUNT))
        inputs = images[:, chosen].flatten(0, 1)
        inputs = functional.interpolate(
            inputs, size=(size_px, size_px), mode="bilinear", align_corners=False
        ).unflatten(0, (-1, VIEW_COUNT))
        x = torch.cat(
            [
                network_input(each[None], cameras_of(pose[chosen], size_px))
                for each, pose in zip(inputs, poses, strict=True)
            ]
        )
        features = self.reconstruction(x.to(dtype), c_noise)
        return activate(features, has_rotations=False)

    def feedback(self, renders: Renders | None, poses: Tensor, size_px: int) -> Feedback:
        """The feedback of B objects; zeros without renders, or where they are not fed back."""
        objects, views = poses.shape[:2]
        zeros = poses.new_zeros(objects, views, 3, size_px, size_px)
        camera_to_world = torch.linalg.inv(poses)
        focal = poses.new_full((objects, views), focal_per_width())
        colours = coordinates = zeros
        source = self.config.feedback
        if renders is not None and source in ("both", "colour"):
            colours = renders.colours
        if renders is not None and source in ("both", "coordinates"):
            coordinates = coordinate_maps(
                renders.depths, renders.opacities, camera_to_world, focal, self.config.coordinates
            )
        return Feedback(colours, coordinates, camera_to_world, focal)

    def predict(self, inputs: JointInputs, feedback: Feedback) -> Tensor:
        """(1, B, V, C, h, w) output of the multi-view network F."""
        context = self.context(inputs.image, inputs.keep_embedding)
        c_noise = 0.25 * inputs.sigmas.log()
        return self.unet(inputs.x, c_noise, context, inputs.added_embeds, None, feedback)

    def _first_pass(self, inputs: JointInputs) -> Tensor:
        """(1, B, V, C, h, w) float32 outputs without feedback."""
        count, size_px = len(inputs.views), inputs.views.shape[-1]
        outputs: list[Tensor] = [inputs.scaled] * count
        for has_feedback in (False, True):
            chosen = (inputs.has_feedback == has_feedback).nonzero()[:, 0]
            if len(chosen):
                part = inputs.of_objects(chosen)
                with torch.set_grad_enabled(torch.is_grad_enabled() and not has_feedback):
                    found = self.predict(part, self.feedback(None, part.poses, size_px))
                for index, value in zip(chosen.tolist(), found.float().unbind(1), strict=True):
                    outputs[index] = value
        return torch.stack(outputs, dim=1)

    def _diffusion_losses(
        self, inputs: JointInputs, predictions: Tensor, renders: Renders
    ) -> Tensor:
        """(B,) losses of the multi-view network, of the second pass where there is one."""
        first = edm_loss(predictions, inputs.clean, inputs.noise, inputs.sigmas)[0]
        chosen = inputs.has_feedback.nonzero()[:, 0]
        if not len(chosen):
            return first
        part = inputs.of_objects(chosen)
        feedback = self.feedback(renders.of_objects(chosen), part.poses, inputs.views.shape[-1])
        second = self.predict(part, feedback)
        losses = edm_loss(second, part.clean, part.noise, part.sigmas)[0]
        return first.index_copy(0, chosen, losses)

    def _render_loss(self, renders: Tensor, targets: Tensor) -> Tensor:
        """(B,) L1 plus weighted LPIPS of renders (B, V, 3, S, S)."""
        loss = (renders - targets).abs().mean(dim=(1, 2, 3, 4))
        lpips = self._unregistered[2]
        if lpips is None:
            return loss
        images, references = (each.flatten(0, 1).movedim(1, -1) for each in (renders, targets))
        distance = lpips(images, references).unflatten(0, renders.shape[:2]).mean(dim=1)
        return loss + self.config.lpips_weight * distance.to(loss)


def denoised(predictions: Tensor, inputs: JointInputs) -> Tensor:
    """(1, B, V, C, h, w) float32 estimate D = c_skip x + c_out F of the clean latents."""
    sigma = expand_sigmas(inputs.sigmas)
    scale = torch.rsqrt(1.0 + sigma * sigma)
    return scale * inputs.scaled - sigma * scale * predictions


def render(splats: RawSplats, poses: Tensor, size_px: int) -> Renders:
    """Renders B objects in their own cameras (B, V, 4, 4); differentiable.

    Both networks may compute in bfloat16; splats and renders are float32.
    """
    colours, depths, opacities = [], [], []
    for index, pose in enumerate(poses):
        own = {name: value[index] for name, value in vars(splats).items()}
        for camera in single_cameras(pose, size_px):
            image = render_splats(**own, camera=camera, blur_px2=RELEASED_BLUR_PX2)
            colours.append(image.on(1.0).clamp(0.0, 1.0).movedim(-1, 0))
            depths.append(image.depth)
            opacities.append((1.0 - image.transmittance).clamp(0.0, 1.0))
    size = poses.shape[:2]
    parts = (torch.stack(each).unflatten(0, size) for each in (colours, depths, opacities))
    return Renders(*parts)

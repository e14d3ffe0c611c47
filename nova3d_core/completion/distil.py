"""Optimises the unseen texels of a texture by score distillation, with the geometry fixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import StageError
from ..progress import Progress
from ..texturing.fill import nearest_texels
from ..texturing.own_colour import OwnColour
from ..views import Views
from .config import CompletionConfig
from .prior import STAGE, ViewPrior
from .resample import latent_mask
from .scene import CompletionScene, OrbitViews
from .sds import distillation_residual, image_gradient, random_sigma, sigma_bounds
from .texture_renderer import TextureRenderer

ORBIT_STEPS = 10
"""Steps of the texture along one random orbit."""
TARGET_STEPS = 5
"""sds_pixels: steps of the texture towards one decoded target."""
LEARNING_RATE = 0.01
"""Of Adam on the logits of the texels, as in SV3D."""
LOGIT_EPS = 1e-3


def distillation_evaluations(config: CompletionConfig) -> int:
    """Number of evaluations of the denoiser."""
    if config.method == "sds_latents":
        return config.iterations
    return -(-config.iterations // TARGET_STEPS)


class TexelParameters:
    """The texels of a texture as logits; those with M = 0 are constants.

    Args:
        scene: with T texels.
        device: of the optimisation.
    """

    def __init__(self, scene: CompletionScene, device: torch.device):
        self._size_px, index = scene.texels.size_px, scene.texels.index
        self._own = scene.mesh.texture.reshape(-1, 3)[index].clone().to(device)  # (T, 3)
        self._is_free = (scene.unseen > 0.0)[:, None].to(device)  # (T, 1)
        position = torch.zeros(self._size_px[0] * self._size_px[1], dtype=torch.long)
        position[index] = torch.arange(len(index))
        self._texel = position[nearest_texels(scene.texels)].to(device)  # (h * w,)
        start = self._own.clamp(LOGIT_EPS, 1.0 - LOGIT_EPS)
        self.logits = torch.logit(start).requires_grad_()
        """(T, 3)."""

    def colours(self) -> Tensor:
        """(T, 3) of the texels, differentiable by the logits."""
        return torch.where(self._is_free, self.logits.sigmoid(), self._own)

    def planes(self) -> Tensor:
        """(1, 3, h, w) the texture; padding copies the nearest texel."""
        return self.colours()[self._texel].T.reshape(1, 3, *self._size_px)


@dataclass(eq=False)
class Distillation:
    """State of one optimisation."""

    scene: CompletionScene
    prior: ViewPrior
    reference: TextureRenderer
    """Of the reference views."""
    views: Views
    """The reference views."""
    config: CompletionConfig
    generator: torch.Generator
    progress: Progress

    def run(self) -> tuple[Tensor, OrbitViews]:
        """Optimises the texture (h, w, 3); returns it with the views of the last orbit."""
        with torch.enable_grad():
            return self._run()

    def _run(self) -> tuple[Tensor, OrbitViews]:
        scene, config, device = self.scene, self.config, self.prior.device
        texels = TexelParameters(scene, device)
        optimiser = torch.optim.Adam([texels.logits], lr=LEARNING_RATE)
        encoder = None
        if config.method == "sds_latents":
            encoder, device = self.prior.differentiable_encoder()
        unseen_texture = scene.planes(scene.unseen[:, None])
        seen = 1.0 - self.reference.render(unseen_texture, background=0.0)[..., 0]  # (V, H, W)
        weights = seen * self.reference.coverage * self._masks()
        orbit, unseen, target = None, None, None
        for step in range(config.iterations):
            if step % ORBIT_STEPS == 0:
                orbit = scene.orbit(self.prior.size_px, scene.unseen, self.generator, self.progress)
                unseen = orbit.renderer.render(unseen_texture, background=0.0)[..., 0]
                renderer = orbit.renderer.to(texels.logits.device)
            planes = texels.planes()
            images = renderer.render(planes)  # (V, S, S, 3)
            fraction = step / config.iterations
            if encoder is None:
                if step % TARGET_STEPS == 0 or step % ORBIT_STEPS == 0:
                    target = self._decoded_target(orbit, images, unseen, fraction).to(images)
                weight = unseen[..., None].to(images)
                loss = (weight * (images - target).square()).sum() / weight.sum().clamp_min(1.0)
            else:
                gradient = self._latent_gradient(orbit, images, unseen, fraction, encoder, device)
                loss = (images * gradient.to(images)).sum()
            loss = loss + self._photometric(planes, weights)
            if not bool(loss.detach().isfinite()):
                raise StageError(STAGE, "the loss became infinite.", "Check the views for NaN.")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            self.progress.update(STAGE, step + 1, config.iterations)
        own = OwnColour(scene.mesh, keeps_uv=True)
        colours = texels.colours().detach().cpu()
        return own.merged_texture(scene.texels, colours, scene.unseen > 0.0), orbit

    def _masks(self) -> Tensor:
        """(V, H, W) masks of the reference views, 1 without any."""
        if self.views.masks is not None:
            return self.views.masks
        return torch.ones(self.views.colour.shape[:3])

    def _photometric(self, planes: Tensor, weights: Tensor) -> Tensor:
        """(1 - M) (J - I)^2 of one random reference view: what has been seen stays."""
        count = len(self.reference)
        view = int(torch.randint(count, (), generator=self.generator))
        if self.reference.pixels[view] is None:
            return planes.new_zeros(())
        pixels = self.reference.pixels[view].to(planes.device)
        render = pixels.render(planes)
        target = self.views.colour[view][pixels.crop].to(render)
        weight = weights[view][pixels.crop].to(render)[..., None]
        return (weight * (render - target).square()).sum() / weight.sum().clamp_min(1.0)

    def _residual(
        self, orbit: OrbitViews, images: Tensor, fraction: float
    ) -> tuple[Tensor, Tensor]:
        """Latents z (D, 1, V, C, h, w) of renders (V, S, S, 3), and z - D(z + sigma e; sigma)."""
        bounds = sigma_bounds(fraction, self.prior.sigma_range)
        latents = self.prior.encode(orbit.images(images.detach().cpu()))
        noise = torch.randn(latents.shape, generator=self.generator)
        sigma = random_sigma(bounds, self.generator)

        def work(denoise: Callable, device: torch.device) -> Tensor:
            return distillation_residual(denoise, latents.to(device), noise.to(device), sigma)

        return latents, self.prior.run(orbit.trajectory, work)

    def _decoded_target(
        self, orbit: OrbitViews, images: Tensor, unseen: Tensor, fraction: float
    ) -> Tensor:
        """(V, S, S, 3) decoded estimate of the images, with the seen latents unchanged."""
        latents, residual = self._residual(orbit, images, fraction)
        mask = latent_mask(unseen, self.prior.model.codec.factor)  # (V, 1, h, w)
        return self.prior.decode(latents[:1] - mask * residual[:1])[0]

    def _latent_gradient(
        self,
        orbit: OrbitViews,
        images: Tensor,
        unseen: Tensor,
        fraction: float,
        encoder: Callable[[Tensor], Tensor],
        device: torch.device,
    ) -> Tensor:
        """(V, S, S, 3) gradient by the renders of the masked residual of the colours."""
        _, residual = self._residual(orbit, images, fraction)
        mask = latent_mask(unseen, self.prior.model.codec.factor)
        gradient = mask * residual[0, 0] / mask.sum().clamp_min(1.0)  # (V, C, h, w)
        signed = images.detach().movedim(-1, 1).to(device) * 2.0 - 1.0
        by_image = image_gradient(
            encoder, signed, gradient.to(device), lambda: self.progress.check(STAGE)
        )
        return 2.0 * by_image.movedim(1, -1)

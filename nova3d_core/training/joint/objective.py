"""The losses of joint training."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import InputError
from ..data.batches import ImageBatch, LatentBatch, to_signed
from ..data.conditioning import sample_conditioning
from ..losses import network_input
from ..objective import Objective
from ..step_rng import StepRandomness
from .cameras import model_poses
from .module import JointInputs


class JointObjective(Objective):
    """EDM's loss of the multi-view network, and the loss of the renders, of a `JointModule`."""

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the losses."""
        return ("diffusion", "reconstruction")

    def total(self, losses: Tensor) -> Tensor:
        """(B,) sums of losses (2, B)."""
        return losses.sum(dim=0)

    def losses(
        self, batch: ImageBatch | LatentBatch, randomness: StepRandomness, step: int
    ) -> tuple[Tensor, Tensor]:
        """Losses (2, B) float32, and the noise levels (B,)."""
        inputs = self.inputs(batch, randomness, step)
        with self.autocast():
            return self.network(inputs), inputs.sigmas

    @torch.no_grad()
    def inputs(
        self, batch: ImageBatch | LatentBatch, randomness: StepRandomness, step: int
    ) -> JointInputs:
        """What the module needs, on its device.

        Raises:
            InputError: latents without the images.
        """
        sigmas = self.sigmas(randomness, step).to(self.device)
        poses = model_poses(batch.elevation_deg, batch.azimuth_deg).to(self.device)
        batch, randomness = batch.to(self.device), randomness.to(self.device)
        clean = self.clean_latents(batch)
        if batch.colour is None:
            raise InputError(
                "the latents of the training data come without images, which the renders are "
                "compared with.",
                "Precompute them again with --precompute.keep-images.",
            )
        family, config = self.module.family, self.config
        conditioning = sample_conditioning(batch, randomness, config.conditioning, family)
        scaled = network_input(clean, randomness.noise, sigmas)
        probability = config.joint.feedback_probability
        if config.joint.feedback == "none":
            probability = 0.0
        return JointInputs(
            x=self.concat(scaled, conditioning),
            scaled=scaled,
            clean=clean,
            noise=randomness.noise,
            sigmas=sigmas,
            image=self.embedding(conditioning),
            keep_embedding=conditioning.keep_embedding,
            added_embeds=conditioning.added_embeds,
            views=to_signed(batch.colour) * 0.5 + 0.5,
            poses=poses,
            has_feedback=randomness.feedback < probability,
        )

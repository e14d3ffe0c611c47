"""Conditioning of a scene model on posed source images and a path of cameras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...progress import Progress
from ...views import Views
from ..model import CODEC, CONDITIONER, IMAGE_ENCODER, Placement, module_dtype
from ..network.pixelnerf import ViewPoses
from ..sampling.conditioning import Conditioning, add_noise, added_embeds
from ..sampling.config import SampleConfig
from ..sampling.fp32_fallback import module_to_dtype, with_fp32_fallback
from ..sampling.pipeline import memory_budget
from ..sampling.trajectory import CameraTrajectory
from .model import SceneModel
from .poses import SceneFrame

CONDITIONING = "conditioning"
ENCODER_BYTES_PER_PIXEL = 4 * 64 * 6
"""Activations of both image encoders per pixel of a source, from above."""


@dataclass(frozen=True, eq=False)
class EncodedSources:
    """What does not depend on the target cameras."""

    signed: Tensor
    """(S, 3, H, W) source images in -1..1, on the CPU."""
    poses: ViewPoses
    """(1, S) in the scene's frame."""
    tokens: Tensor
    """(1, S, Cc) image embeddings, on the CPU."""
    maps: Tensor
    """(1, S, C, H/4, W/4) feature maps of the conditioner, on the CPU."""

    def joined(self, other: EncodedSources) -> EncodedSources:
        """These sources, then others of the same scene."""
        return EncodedSources(
            torch.cat([self.signed, other.signed]),
            self.poses.joined(other.poses),
            torch.cat([self.tokens, other.tokens], dim=1),
            torch.cat([self.maps, other.maps], dim=1),
        )

    def with_first(self, index: int) -> EncodedSources:
        """The sources, reordered so that one is the first."""
        order = [index, *(other for other in range(len(self.signed)) if other != index)]
        return EncodedSources(
            self.signed[order], self.poses[:, order], self.tokens[:, order], self.maps[:, order]
        )


@torch.no_grad()
def encode_sources(
    model: SceneModel, sources: Views, frame: SceneFrame, placement: Placement, progress: Progress
) -> EncodedSources:
    """Encodes source views of the model's size, in both image encoders.

    The embeddings are one token per source; V3D has one for objects. Sources are encoded one by
    one, so that many of them need no more memory.
    """
    signed = sources.colour.movedim(-1, 1) * 2.0 - 1.0  # (S, 3, H, W)

    def each_source(encode_one: Callable[[Tensor], Tensor]) -> Tensor:
        """Encodings (S, ...) of the sources (1, 3, H, W), on the CPU."""
        parts = []
        for image in signed.split(1):
            progress.check(CONDITIONING)
            parts.append(encode_one(image).cpu())
        return torch.cat(parts)

    activations = ENCODER_BYTES_PER_PIXEL * signed[0, 0].numel()
    device, _ = placement.load_to_device(IMAGE_ENCODER, activations)

    def embed(dtype: torch.dtype) -> Tensor:
        encoder = module_to_dtype(model.image_encoder, dtype)
        return each_source(lambda image: encoder.embed(image.to(device)))  # (S, 1, Cc)

    dtype = module_dtype(model.image_encoder)
    tokens = with_fp32_fallback(CONDITIONING, embed, dtype, model.source)
    device, _ = placement.load_to_device(CONDITIONER, activations)

    def encode(dtype: torch.dtype) -> Tensor:
        return each_source(lambda image: model.conditioner.encode(image[None].to(device, dtype))[0])

    maps = with_fp32_fallback(CONDITIONING, encode, torch.float32, model.source)
    poses = frame.poses(sources.cameras)
    return EncodedSources(signed, poses, tokens[:, 0].float()[None], maps[None])


def render_features(
    model: SceneModel,
    encoded: EncodedSources,
    targets: ViewPoses,
    config: SampleConfig,
    placement: Placement,
    progress: Progress,
) -> tuple[Tensor, Tensor]:
    """Colours (1, V, 3, h, w) and features (1, V, F, h, w) of target views, on the CPU.

    Rays are rendered in chunks that fit into the memory budget of the settings or the placement.
    """
    conditioner = model.conditioner
    side = encoded.signed.shape[-1] // model.codec.factor
    per_ray = conditioner.bytes_per_ray(len(encoded.signed))
    budget = memory_budget(config, placement, CONDITIONER)
    rays = max(min(int(budget // per_ray), side * side), 1)
    device, _ = placement.load_to_device(CONDITIONER, rays * per_ray)

    def render(dtype: torch.dtype) -> Tensor:
        rgb, features = conditioner.render(
            encoded.maps.to(device, dtype),
            encoded.poses.to(device),
            targets.to(device),
            side,
            side,
            max_rays=rays,
            before_chunk=lambda: progress.check(CONDITIONING),
        )
        return torch.cat([rgb, features], dim=2).cpu()

    both = with_fp32_fallback(CONDITIONING, render, torch.float32, model.source)
    return both[:, :, :3], both[:, :, 3:]


def image_latent(
    model: SceneModel,
    signed: Tensor,
    noise: Tensor,
    placement: Placement,
) -> Tensor:
    """(1, C, h, w) unscaled latent of the first source (3, H, W) in -1..1, on the CPU.

    Args:
        model: provides the codec and the strength of the noise.
        signed: the image.
        noise: (1, 3, H, W) standard normal, added before encoding as in SVD.
        placement: device of the codec.
    """
    size_px = signed.shape[-1]
    peak_bytes = model.codec.decode_peak_bytes(size_px, size_px, 1, torch.float32)
    device, _ = placement.load_to_device(CODEC, peak_bytes)
    noisy = add_noise(signed[None], noise, model.family.noise_aug_strength)

    def encode(dtype: torch.dtype) -> Tensor:
        return model.codec.cast(encode=dtype).encode(noisy.to(device))

    return with_fp32_fallback(CONDITIONING, encode, torch.float32, model.source).cpu()


def scene_conditioning(
    model: SceneModel, encoded: EncodedSources, latent: Tensor, features: Tensor
) -> Conditioning:
    """Conditioning of one window of V views.

    Args:
        model: provides the family.
        encoded: the sources.
        latent: (1, C, h, w) of the first source, the same for all views as in SVD.
        features: (1, V, F, h, w) of the conditioner.
    """
    views = features.shape[1]
    shared = latent[:, None].expand(-1, views, -1, -1, -1)
    added = added_embeds(model.family, level_trajectory(None, views))[None]
    return Conditioning(torch.cat([shared, features], dim=2), encoded.tokens, added)


def level_trajectory(cameras: Cameras | None, views: int) -> CameraTrajectory:
    """A trajectory without angles, for what a scene shares with models of orbits."""
    zeros = torch.zeros(views)
    return CameraTrajectory(cameras, zeros, zeros, input_view=0)

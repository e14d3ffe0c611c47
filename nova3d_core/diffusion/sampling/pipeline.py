"""Multi-view sampling: from one image to views of its object."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...compute.devices import is_out_of_memory
from ...errors import InputError
from ...progress import SILENT, Progress
from ...views import Views
from ...wording import by_interface
from ..codecs.chunks import CONTEXT_VIEWS, decode_chunks
from ..codecs.vae import max_chunk_size
from ..families import Family
from ..model import (
    CODEC,
    IMAGE_ENCODER,
    UNET,
    Codec,
    MultiviewModel,
    OneDevice,
    Placement,
    module_dtype,
)
from ..network.feedback_unet import Feedback
from .conditioning import Conditioning, add_noise, added_embeds, camera_task_embeds
from .config import SampleConfig
from .cost import activation_bytes, estimate_cpu_seconds
from .denoiser import Denoiser
from .fp32_fallback import ensure_finite, module_to_dtype, with_fp32_fallback
from .guidance import guidance_scales
from .interrupt import check_before_blocks
from .postprocess import upscale, views_from_samples
from .preprocess import preprocess_image
from .preview import LatentPreviewer
from .process import sampling_process
from .schedule import init_noise_sigma
from .trajectory import CameraTrajectory, plan_trajectory

logger = logging.getLogger(__name__)

ENCODING, SAMPLING, DECODING = "encoding", "sampling", "decoding"
IMAGE_ENCODER_BYTES = 64 * 2**20
"""Activations of CLIP for one image of 224 pixels, 257 tokens."""
SLOW_SAMPLING_S = 60.0
"""Warn before sampling on a CPU that is estimated to take longer."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Generated images and the views made of them."""

    views: Views
    """V views, the input view first."""
    images: Tensor
    """(D, V, S, S, 3) in 0..1 as generated, the input view first: colours, then normal images where
    the model generates them."""
    notes: tuple[str, ...] = ()
    """Remarks for the user about the input image and the model, one sentence each."""


@dataclass(frozen=True, eq=False)
class NoiseInputs:
    """All random inputs of a sample, drawn on the CPU: a seed does not depend on the device."""

    latents: Tensor
    """(D, 1, V, C, h, w) standard normal noise, the start of sampling."""
    augmentation: Tensor
    """Standard normal noise for the input image (1, 3, S, S), or for its latent (1, C, h, w)."""
    generator: torch.Generator
    """Generator for all later draws."""


@dataclass(frozen=True, eq=False)
class FeedbackStep:
    """What a network with feedback gets from the estimate of one step."""

    feedback: Feedback
    """Of one object."""
    preview: Callable[[], Tensor]
    """Renders a preview image (H, W, 3) in 0..1."""


FeedBack = Callable[[int, Tensor], FeedbackStep | None]
"""Makes the feedback for the following steps of the number of evaluations so far and the estimate
of the data (D, 1, V, C, h, w); None keeps the present one. It may load other parts."""


def sample_views(
    model: MultiviewModel,
    image: Tensor,
    mask: Tensor | None = None,
    config: SampleConfig | None = None,
    cameras: Cameras | None = None,
    placement: Placement | None = None,
    progress: Progress = SILENT,
) -> Views:
    """Generates views of the object in one image; `sample` also returns the raw images.

    Args:
        model: a loaded model; it is not modified.
        image: (H, W, 3), (H, W, 4) with alpha, or grey; see `preprocess.preprocess_image`.
        mask: (H, W) in 0..1, 1 on the object.
        config: seed, steps, guidance, size.
        cameras: camera angles, for models that take them; see `trajectory.plan_trajectory`.
        placement: device and dtype of the model's parts; all on the CPU if None.
        progress: receives each step, with previews while sampling.

    Returns:
        V views with their cameras, the input view first; with masks where the background is white,
        with normals in the frame of view 0 where the model generates them; upscaled by
        `family.upscale`.

    Raises:
        InputError: unusable image, size or cameras.
        StageError: the model returned NaN or infinite values, in float32 too.
        Cancelled: the user cancelled.
    """
    return sample(model, image, mask, config, cameras, placement, progress).views


def sample(
    model: MultiviewModel,
    image: Tensor,
    mask: Tensor | None = None,
    config: SampleConfig | None = None,
    cameras: Cameras | None = None,
    placement: Placement | None = None,
    progress: Progress = SILENT,
) -> Sample:
    """Generates views of the object in one image; arguments and errors as in `sample_views`."""
    config, family = config or SampleConfig(), model.family
    _check_has_orbit(family)
    placement = placement or OneDevice(model, torch.device("cpu"))
    size_px = check_size_px(model, config.size_px or family.size_px)
    trajectory = plan_trajectory(family, size_px, config.elevation_deg, cameras)
    progress.update(ENCODING, 0, 2)
    keep_framing = config.framing == "image"
    prepared = preprocess_image(image, mask, size_px, family.foreground_ratio, keep_framing)
    notes = (*prepared.notes, *_caveats(family))
    noise = draw_noise_inputs(model, size_px, config.seed)
    with torch.no_grad():
        conditioning = make_conditioning(
            model, prepared.image, trajectory, noise, placement, progress
        )
        latents = sample_latents(
            model, conditioning, trajectory, noise.latents, config, placement, progress
        )
        images = decode_latents(model, latents, config, placement, progress)  # (D, V, S, S, 3)
    if family.reuse_input_view:
        images[0, trajectory.input_view] = prepared.image
    images = torch.stack([trajectory.input_view_first(each) for each in images])
    views = views_from_samples(
        trajectory.cameras_input_view_first(),
        images[0],
        images[1] if len(images) > 1 else None,
        prepared.mask if family.reuse_input_view else None,
    )
    return Sample(upscale(views, family.upscale), images, notes)


def _check_has_orbit(family: Family) -> None:
    """Raises InputError for a model for scenes, which `scenes.sample.sample_path` samples."""
    if not family.orbit:
        raise InputError(
            f"the model is {family.label}, which generates views along a camera path from posed "
            "images, and none around an object.",
            by_interface("Use `sample-path`.", "Connect it to Sample Camera Path."),
        )


def _caveats(family: Family) -> tuple[str, ...]:
    """The family's caveats, which are also logged."""
    if not family.caveats:
        return ()
    logger.warning("%s", family.caveats)
    return (family.caveats,)


def check_size_px(model: MultiviewModel, size_px: int) -> int:
    """Returns the size; raises InputError unless the network can process it."""
    multiple = model.codec.factor * model.unet.config.size_multiple
    if size_px % multiple:
        nearest = max(round(size_px / multiple), 1) * multiple
        raise InputError(
            f"sampling size_px is {size_px}, expected a multiple of {multiple}.",
            f"Use {nearest}; {model.family.label} was trained on {model.family.size_px}.",
        )
    return size_px


def draw_noise_inputs(model: MultiviewModel, size_px: int, seed: int) -> NoiseInputs:
    """Draws all noise of a sample from a seed."""
    family, codec = model.family, model.codec
    generator = torch.Generator().manual_seed(seed)
    side = size_px // codec.factor
    latent = (codec.latent_channels, side, side)
    latents = torch.randn((len(family.domains), 1, family.views, *latent), generator=generator)
    if family.shared_noise:
        latents = latents[:1].expand_as(latents).contiguous()
    shape = (3, size_px, size_px) if family.noise_aug_target == "image" else latent
    return NoiseInputs(latents, torch.randn((1, *shape), generator=generator), generator)


def make_conditioning(
    model: MultiviewModel,
    image: Tensor,
    trajectory: CameraTrajectory,
    noise: NoiseInputs,
    placement: Placement,
    progress: Progress,
) -> Conditioning:
    """Conditioning on a preprocessed image (S, S, 3) and the cameras, on the CPU.

    The image encoder embeds the clean image. Noise augmentation is applied as in training: to the
    image before encoding (SVD, SV3D), or to a sample of its latent (V3D). The codec encodes in
    float32: in bfloat16, the rounding error of the latent is far above the augmentation of SV3D.
    """
    family = model.family
    signed = image.movedim(-1, 0)[None] * 2.0 - 1.0  # (1, 3, S, S) in -1..1
    device, _ = placement.load_to_device(IMAGE_ENCODER, IMAGE_ENCODER_BYTES)
    pixels = signed.to(device)
    context = with_fp32_fallback(
        ENCODING,
        lambda dtype: module_to_dtype(model.image_encoder, dtype).embed(pixels),
        module_dtype(model.image_encoder),
        model.source,
    )
    progress.update(ENCODING, 1, 2)
    in_latent = family.noise_aug_target == "latent"
    strength = family.noise_aug_strength
    to_encode = signed if in_latent else add_noise(signed, noise.augmentation, strength)
    size_px = signed.shape[-1]
    peak_bytes = model.codec.decode_peak_bytes(size_px, size_px, 1, torch.float32)
    device, _ = placement.load_to_device(CODEC, peak_bytes)

    def encode(dtype: torch.dtype) -> Tensor:
        codec = model.codec.cast(encode=dtype)
        if family.scale_image_latent:
            return codec.encode_scaled(to_encode.to(device))
        return codec.encode(to_encode.to(device), noise.generator if in_latent else None)

    latent = with_fp32_fallback(ENCODING, encode, torch.float32, model.source)
    if in_latent:
        latent = add_noise(latent, noise.augmentation, strength)
    progress.update(ENCODING, 2, 2)
    added, tasks = camera_conditions(model, trajectory)
    return Conditioning(latent.cpu(), context.float().cpu(), added, tasks)


def camera_conditions(
    model: MultiviewModel, trajectory: CameraTrajectory
) -> tuple[Tensor, Tensor | None]:
    """Added embeddings (1, V, A) and camera and task embeddings (D, 1, V, A) on the CPU.

    The latter are None for networks that take none.
    """
    tasks = None
    if model.unet.config.camera_task_dim:
        tasks = camera_task_embeds(model.family, trajectory)[:, None].cpu()
    return added_embeds(model.family, trajectory)[None].cpu(), tasks


def sample_latents(
    model: MultiviewModel,
    conditioning: Conditioning,
    trajectory: CameraTrajectory,
    noise: Tensor,
    config: SampleConfig,
    placement: Placement,
    progress: Progress,
    feed_back: FeedBack | None = None,
) -> Tensor:
    """Denoises standard normal noise (D, 1, V, C, h, w) to scaled latents, float32.

    `feed_back` is called after each evaluation, for networks that take feedback.
    """
    family = model.family
    process = sampling_process(family, config)
    sigmas, evaluations = process.sigmas, len(process.evaluation_sigmas)
    scales = guidance_scales(config.guidance or family.guidance, family, trajectory)
    cost = _SamplingCost(model, noise, config)
    device, dtype = placement.load_to_device(UNET, cost.peak_bytes(torch.float16, batch_cfg=False))
    batch_cfg = device.type != "cpu" and (
        cost.peak_bytes(dtype, batch_cfg=True) <= memory_budget(config, placement, UNET)
    )
    if device.type == "cpu":
        _warn_if_slow(cost, process.evaluation_sigmas, scales, dtype)

    def attempt(dtype: torch.dtype) -> Tensor:
        placement.load_to_device(UNET, cost.peak_bytes(dtype, batch_cfg))
        previewer = LatentPreviewer(trajectory.input_view_first, codec=model.codec)
        denoiser = Denoiser(
            model.unet,
            conditioning.to(device, dtype),
            scales.to(device),
            dtype,
            batch_cfg,
            config.guidance_interval,
            process.precondition,
        )

        def on_evaluation(done: int, denoised: Tensor) -> None:
            ensure_finite(denoised)
            step = None if feed_back is None else feed_back(done, denoised)
            if step is not None:
                fed = step.feedback.to(device, dtype)
                denoiser.conditioning = replace(denoiser.conditioning, feedback=fed)
            if feed_back is not None and done < evaluations:
                placement.load_to_device(UNET, cost.peak_bytes(dtype, batch_cfg))
            preview = previewer.preview(denoised) if step is None else step.preview
            progress.update(SAMPLING, done, evaluations, preview)

        progress.update(SAMPLING, 0, evaluations)
        x = noise.to(device) * init_noise_sigma(float(sigmas[0]))
        with check_before_blocks(model.unet, lambda: progress.check(SAMPLING)):
            x = process.make_sampler()(denoiser, x, sigmas, on_evaluation)
        return x / init_noise_sigma(float(sigmas[-1]))  # to unit variance

    return with_fp32_fallback(SAMPLING, attempt, dtype, model.source)


def memory_budget(config: SampleConfig, placement: Placement, part: str) -> float:
    """Bytes for the activations of a part: as set, else what the placement allows."""
    if config.memory_gib is None:
        return placement.activation_budget(part)
    return config.memory_gib * 2**30


@dataclass(frozen=True, eq=False)
class _SamplingCost:
    """Memory and number of forward passes of a sample."""

    model: MultiviewModel
    noise: Tensor
    config: SampleConfig

    def peak_bytes(self, dtype: torch.dtype, batch_cfg: bool) -> int:
        _, objects, views, _, height, width = self.noise.shape
        passes = 2 if batch_cfg else 1
        batch = passes * objects
        return activation_bytes(self.model.unet.config, batch, views, height, width, dtype)

    def passes(self, evaluations: list[float], scales: Tensor) -> int:
        """Forward passes of a whole sample: evaluations with guidance take two."""
        start, end = self.config.guidance_interval
        levels = torch.tensor(evaluations)
        apply_cfg = (levels >= start) & (levels <= end) & bool((scales != 1.0).any())
        return len(levels) + int(apply_cfg.sum())


def _warn_if_slow(
    cost: _SamplingCost, evaluations: list[float], scales: Tensor, dtype: torch.dtype
) -> None:
    """Logs the estimated time of sampling on this CPU if it is long."""
    _, _, views, _, height, width = cost.noise.shape
    seconds_per_pass = estimate_cpu_seconds(cost.model.unet, views, height, width, dtype)
    seconds = seconds_per_pass * cost.passes(evaluations, scales)
    if seconds > SLOW_SAMPLING_S:
        logger.warning(
            "sampling %d views on the CPU takes about %d minutes; a GPU takes seconds.",
            views,
            max(round(seconds / 60.0), 1),
        )


def decode_latents(
    model: MultiviewModel,
    latents: Tensor,
    config: SampleConfig,
    placement: Placement,
    progress: Progress,
) -> Tensor:
    """Decodes latents (D, 1, V, C, h, w) to images (D, V, S, S, 3) float32 in 0..1 on the CPU."""
    signed = decode_signed(model, latents, config, placement, progress)
    unit = (signed * 0.5 + 0.5).clamp(0.0, 1.0).movedim(1, -1)  # (D V, S, S, 3)
    return unit.unflatten(0, (-1, latents.shape[2])).contiguous()


def decode_signed(
    model: MultiviewModel,
    latents: Tensor,
    config: SampleConfig,
    placement: Placement,
    progress: Progress,
) -> Tensor:
    """Decodes latents (D, 1, V, C, h, w) to (D V, 3, S, S) float32 in about -1..1 on the CPU.

    Decodes as many images together as fit into the memory budget, in chunks of even size. Temporal
    layers also see the neighbours of a chunk, which avoids visible seams between chunks.
    """
    codec, views = model.codec, latents.shape[2]
    size = tuple(side * codec.factor for side in latents.shape[-2:])
    budget = memory_budget(config, placement, CODEC)

    def chunk_size(dtype: torch.dtype) -> int:
        chosen = config.decode_chunk_size or max_chunk_size(codec, *size, dtype, budget, views)
        return min(chosen, views)

    peak_bytes = codec.decode_peak_bytes(*size, chunk_size(codec.dtype), codec.dtype)
    device, _ = placement.load_to_device(CODEC, peak_bytes)

    def attempt(dtype: torch.dtype) -> Tensor:
        converted, count = codec.cast(decode=dtype), chunk_size(dtype)
        while True:
            try:
                return _decode_chunks(converted, latents.to(device), count, progress)
            except Exception as error:
                if count == 1 or not is_out_of_memory(error):
                    raise
                count = (count + 1) // 2
                logger.warning("out of memory: retrying with %d images decoded together.", count)

    return with_fp32_fallback(DECODING, attempt, codec.dtype, model.source)


def _decode_chunks(codec: Codec, latents: Tensor, max_views: int, progress: Progress) -> Tensor:
    """Decodes latents (D, 1, V, C, h, w) in chunks to (D V, 3, S, S) float32 on the CPU."""
    objects = latents.flatten(0, 1)  # (D, V, C, h, w)
    views = objects.shape[1]
    context = CONTEXT_VIEWS if codec.temporal else 0
    chunks = decode_chunks(views, max_views, context)
    parts, done, total = [], 0, len(objects) * views
    progress.update(DECODING, 0, total)
    for each in objects:
        for chunk in chunks:
            decoded = each[chunk.start : chunk.stop]
            images = codec.decode(decoded, views=len(decoded))[chunk.kept]  # (n, 3, S, S)
            parts.append(ensure_finite(images).float().cpu())
            done += len(images)
            progress.update(DECODING, done, total)
    return torch.cat(parts)

"""One image in, views of the object in it out."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...compute.devices import is_out_of_memory
from ...errors import InputError
from ...progress import SILENT, Progress
from ...views import Views
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
from .conditioning import Conditioning, add_noise, added_embeds, camera_task_embeds
from .config import SampleConfig
from .cost import activation_bytes, estimate_cpu_seconds
from .denoiser import Denoiser
from .fp32_fallback import ensure_finite, module_to_dtype, with_fp32_fallback
from .guidance import guidance_scales
from .postprocess import upscale, views_from_samples
from .preprocess import preprocess_image
from .preview import LatentPreviewer
from .sampler import sample_euler
from .schedule import init_noise_sigma, karras_sigmas
from .trajectory import CameraTrajectory, plan_trajectory

logger = logging.getLogger(__name__)

ENCODING, SAMPLING, DECODING = "encoding", "sampling", "decoding"
IMAGE_ENCODER_BYTES = 64 * 2**20
"""CLIP reads one image of 224 pixels: 257 tokens."""
SLOW_SAMPLING_S = 60.0
"""Sampling on a CPU that takes longer is announced."""


@dataclass(frozen=True, eq=False)
class Sample:
    """What was painted, and the views made of it."""

    views: Views
    """V views, the input view first."""
    images: Tensor
    """(D, V, S, S, 3) in 0..1 as the model painted them, the input view first: colours, then
    images of normals where the model paints some."""
    notes: tuple[str, ...] = ()
    """What the user should know about the input image, one sentence each."""


@dataclass(frozen=True, eq=False)
class NoiseInputs:
    """All random numbers of a sample, drawn on the CPU: a seed means the same everywhere."""

    start: Tensor
    """(D, 1, V, C, h, w) standard noise that sampling starts from."""
    augmentation: Tensor
    """Standard noise for the input: (1, 3, S, S), or (1, C, h, w) if the latent gets it."""
    generator: torch.Generator
    """For what is drawn later."""


def sample_views(
    model: MultiviewModel,
    image: Tensor,
    mask: Tensor | None = None,
    config: SampleConfig | None = None,
    cameras: Cameras | None = None,
    placement: Placement | None = None,
    progress: Progress = SILENT,
) -> Views:
    """Views of the object in one image; `sample` without what else it knows.

    Args:
        model: a loaded model; it is left as it was.
        image: (H, W, 3), (H, W, 4) with alpha, or grey; see `intake.preprocess_image`.
        mask: (H, W) in 0..1, 1 on the object.
        config: seed, steps, guidance, size.
        cameras: where to look from, for models that go where they are told; see
            `trajectory.plan_trajectory`.
        placement: where the model's parts run; all on the CPU if None.
        progress: told of each step, with previews while sampling.

    Returns:
        The family's number of views, the input view first, with their cameras; with masks where
        the background came out white, with normals (in the frame of view 0) where the model
        paints them; `family.upscale` times larger than painted.

    Raises:
        InputError: an image, a size or cameras that cannot be used.
        StageError: the model gave numbers that are not finite, in float32 too.
        Cancelled: the user stopped; nothing is left behind.
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
    """Views of the object in one image, and the images as painted; see `sample_views`."""
    config, family = config or SampleConfig(), model.family
    placement = placement or OneDevice(model, torch.device("cpu"))
    size_px = check_size_px(model, config.size_px or family.size_px)
    trajectory = plan_trajectory(family, size_px, config.elevation_deg, cameras)
    progress.update(ENCODING, 0, 2)
    taken = preprocess_image(image, mask, size_px, family.foreground_ratio)
    notes = (*taken.notes, *_caveats(family))
    draws = draw_noise_inputs(model, size_px, config.seed)
    with torch.no_grad():
        told = make_conditioning(model, taken.image, trajectory, draws, placement, progress)
        latents = sample_latents(model, told, trajectory, draws.start, config, placement, progress)
        images = decode_latents(model, latents, config, placement, progress)  # (D, V, S, S, 3)
    if family.reuse_input_view:
        images[0, trajectory.input_view] = taken.image
    images = torch.stack([trajectory.input_view_first(each) for each in images])
    views = views_from_samples(
        trajectory.cameras_input_view_first(),
        images[0],
        images[1] if len(images) > 1 else None,
        taken.mask if family.reuse_input_view else None,
    )
    return Sample(upscale(views, family.upscale), images, notes)


def _caveats(family: Family) -> tuple[str, ...]:
    """What the family cannot do, logged too."""
    if not family.caveats:
        return ()
    logger.warning("%s", family.caveats)
    return (family.caveats,)


def check_size_px(model: MultiviewModel, size_px: int) -> int:
    """The size; raises InputError if the network cannot halve it often enough."""
    multiple = model.codec.factor * 2 ** (len(model.unet.config.channel_mult) - 1)
    if size_px % multiple:
        near = max(round(size_px / multiple), 1) * multiple
        raise InputError(
            f"sampling size_px is {size_px}, expected a multiple of {multiple}.",
            f"Take {near}; {model.family.label} was trained on {model.family.size_px}.",
        )
    return size_px


def draw_noise_inputs(model: MultiviewModel, size_px: int, seed: int) -> NoiseInputs:
    """All noise of a sample."""
    family, codec = model.family, model.codec
    generator = torch.Generator().manual_seed(seed)
    side = size_px // codec.factor
    latent = (codec.latent_channels, side, side)
    start = torch.randn((len(family.domains), 1, family.views, *latent), generator=generator)
    shape = (3, size_px, size_px) if family.noise_aug_target == "image" else latent
    return NoiseInputs(start, torch.randn((1, *shape), generator=generator), generator)


def make_conditioning(
    model: MultiviewModel,
    image: Tensor,
    trajectory: CameraTrajectory,
    draws: NoiseInputs,
    placement: Placement,
    progress: Progress,
) -> Conditioning:
    """Everything the network is told of a framed image (S, S, 3) and the views, on the CPU.

    The embedding is of the clean image. The noise goes where it went in training: into the
    image before it is encoded (SVD, SV3D), or into a sample of its latent (V3D).
    """
    family = model.family
    signed = image.movedim(-1, 0)[None] * 2.0 - 1.0  # (1, 3, S, S) in -1..1
    device, _ = placement.load_to_device(IMAGE_ENCODER, IMAGE_ENCODER_BYTES)
    seen = signed.to(device)
    context = with_fp32_fallback(
        ENCODING,
        lambda dtype: module_to_dtype(model.image_encoder, dtype).embed(seen),
        module_dtype(model.image_encoder),
        model.source,
    )
    progress.update(ENCODING, 1, 2)
    in_latent = family.noise_aug_target == "latent"
    strength = family.noise_aug_strength
    to_encode = signed if in_latent else add_noise(signed, draws.augmentation, strength)
    size_px = signed.shape[-1]
    own = module_dtype(model.codec)
    memory = model.codec.decode_peak_bytes(size_px, size_px, 1, own)
    device, _ = placement.load_to_device(CODEC, memory)
    drawn = draws.generator.get_state()

    def encode(dtype: torch.dtype) -> Tensor:
        draws.generator.set_state(drawn)  # a second try draws the same
        codec = module_to_dtype(model.codec, dtype)
        return codec.encode(to_encode.to(device), draws.generator if in_latent else None)

    latent = with_fp32_fallback(ENCODING, encode, own, model.source).float()
    if in_latent:
        latent = add_noise(latent, draws.augmentation, strength)
    progress.update(ENCODING, 2, 2)
    tasks = None
    if model.unet.config.camera_task_dim:
        tasks = camera_task_embeds(family, trajectory)[:, None].cpu()  # (D, 1, V, 10)
    added = added_embeds(family, trajectory)[None].cpu()  # (1, V, A)
    return Conditioning(latent.cpu(), context.float().cpu(), added, tasks)


def sample_latents(
    model: MultiviewModel,
    told: Conditioning,
    trajectory: CameraTrajectory,
    start: Tensor,
    config: SampleConfig,
    placement: Placement,
    progress: Progress,
) -> Tensor:
    """Latents (D, 1, V, C, h, w) float32 as the codec decodes them, from standard noise."""
    family = model.family
    sigmas = karras_sigmas(config.steps or family.steps, family.sigma_min, family.sigma_max)
    steps = len(sigmas) - 1
    guidance = config.guidance or family.guidance
    scales = guidance_scales(guidance, trajectory.azimuths_deg, trajectory.input_view)
    run = _Run(model, start, config)
    device, dtype = placement.load_to_device(UNET, run.bytes_in(torch.float16, batch_cfg=False))
    batch_cfg = device.type != "cpu" and run.fits(dtype, config.memory_gib)
    if device.type == "cpu":
        _say_how_slowly(run, sigmas, scales, dtype)

    def attempt(dtype: torch.dtype) -> Tensor:
        placement.load_to_device(UNET, run.bytes_in(dtype, batch_cfg))
        previews = LatentPreviewer(trajectory.input_view_first, codec=model.codec)
        denoiser = Denoiser(
            model.unet,
            told.to(device, dtype),
            scales.to(device),
            dtype,
            batch_cfg,
            config.guidance_interval,
            lambda: progress.check(SAMPLING),
        )

        def on_step(step: int, estimate: Tensor) -> None:
            ensure_finite(estimate)
            progress.update(SAMPLING, step, steps, previews.of(estimate))

        progress.update(SAMPLING, 0, steps)
        x = start.to(device) * init_noise_sigma(float(sigmas[0]))
        return sample_euler(denoiser, x, sigmas, on_step)

    return with_fp32_fallback(SAMPLING, attempt, dtype, model.source)


@dataclass(frozen=True, eq=False)
class _Run:
    """What one pass of the network costs."""

    model: MultiviewModel
    start: Tensor
    config: SampleConfig

    def bytes_in(self, dtype: torch.dtype, batch_cfg: bool) -> int:
        _, objects, views, _, height, width = self.start.shape
        both = 2 if batch_cfg else 1
        return activation_bytes(self.model.unet.config, both * objects, views, height, width, dtype)

    def fits(self, dtype: torch.dtype, memory_gib: float) -> bool:
        return self.bytes_in(dtype, batch_cfg=True) <= memory_gib * 2**30

    def passes(self, sigmas: Tensor, scales: Tensor) -> int:
        """Passes of a whole sample: a guided step takes two."""
        low, high = self.config.guidance_interval
        levels = sigmas[:-1]
        guided = (levels >= low) & (levels <= high) & bool((scales != 1.0).any())
        return len(levels) + int(guided.sum())


def _say_how_slowly(run: _Run, sigmas: Tensor, scales: Tensor, dtype: torch.dtype) -> None:
    """Logs about how long sampling takes on this CPU, if that is long."""
    _, _, views, _, height, width = run.start.shape
    a_pass = estimate_cpu_seconds(run.model.unet, views, height, width, dtype)
    seconds = a_pass * run.passes(sigmas, scales)
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
    """Images (D, V, S, S, 3) float32 in 0..1 on the CPU, of latents (D, 1, V, C, h, w).

    So many at once as fit into the memory allowed; a codec with layers across views sees only
    those that are decoded together, as SVD's own code has it.
    """
    codec, views = model.codec, latents.shape[2]
    size = tuple(side * codec.factor for side in latents.shape[-2:])
    allowed = config.memory_gib * 2**30

    def chunk_size(dtype: torch.dtype) -> int:
        return config.decode_chunk_size or max_chunk_size(codec, *size, dtype, allowed, views)

    own = module_dtype(codec)
    device, _ = placement.load_to_device(
        CODEC, codec.decode_peak_bytes(*size, chunk_size(own), own)
    )

    def attempt(dtype: torch.dtype) -> Tensor:
        here, count = module_to_dtype(codec, dtype), chunk_size(dtype)
        while True:
            try:
                return _decode_all(here, latents.to(device), count, progress)
            except Exception as error:
                if count == 1 or not is_out_of_memory(error):
                    raise
                count = (count + 1) // 2
                logger.warning("memory ran out: decoding again, %d images at once.", count)

    images = with_fp32_fallback(DECODING, attempt, own, model.source)
    unit = (images * 0.5 + 0.5).clamp(0.0, 1.0).movedim(1, -1)  # (D V, S, S, 3)
    return unit.unflatten(0, (-1, views)).contiguous()


def _decode_all(codec: Codec, latents: Tensor, chunk_size: int, progress: Progress) -> Tensor:
    """Images (D V, 3, S, S) float32 on the CPU of latents (D, 1, V, C, h, w), a few at once."""
    chunks = [chunk for walk in latents.flatten(0, 1) for chunk in walk.split(chunk_size)]
    parts, done, total = [], 0, sum(map(len, chunks))
    progress.update(DECODING, 0, total)
    for chunk in chunks:
        images = codec.decode(chunk, views=len(chunk))  # (n, 3, S, S)
        parts.append(ensure_finite(images).float().cpu())
        done += len(chunk)
        progress.update(DECODING, done, total)
    return torch.cat(parts)

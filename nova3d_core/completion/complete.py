"""Texture completion: a multi-view model generates the parts that no reference view has seen."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ..cameras.orbits import ORBIT_PRESETS
from ..compute.host_memory import available_bytes, check_memory
from ..diffusion.model import MultiviewModel, OneDevice, Placement
from ..diffusion.network.feedback_unet import FeedbackUNet
from ..diffusion.sampling.pipeline import check_size_px
from ..diffusion.sampling.postprocess import upscale
from ..diffusion.sampling.preprocess import preprocess_image
from ..diffusion.sampling.preview import LatentPreviewer
from ..diffusion.sampling.schedule import karras_sigmas
from ..errors import InputError, StageError
from ..imaging.matte import WHITE_TOLERANCE, matte_from_white
from ..mesh import ZERO_ORIGIN, Mesh
from ..progress import SILENT, Progress
from ..rendering.raycast import RayCaster
from ..texturing.bake import bake_texture
from ..texturing.config import BakeConfig
from ..texturing.own_colour import OwnColour
from ..texturing.seams import level_seams
from ..texturing.surface_pixels import as_planes
from ..texturing.texels import Texels, rasterise_texels
from ..texturing.view_fit import check_views_fit
from ..views import Views
from ..wording import counted, sentence_case
from .config import CompletionConfig
from .distil import Distillation, distillation_evaluations
from .prior import STAGE, ViewPrior, ordinary
from .resample import latent_mask, masked_resample
from .scene import CompletionScene, OrbitViews, make_scene
from .texture_renderer import BYTES_PER_PIXEL, TextureRenderer
from .visibility import best_cosines, overlapping_texels, unseen_weight

logger = logging.getLogger(__name__)

MIN_UNSEEN = 0.05
"""Pixels and texels with a smaller M are not generated anew."""
MOSTLY_UNSEEN = 0.5
"""Warn if a larger fraction of the texture is unseen."""
BLACK = 2.0 / 255.0
"""Views whose values are all below this are black."""
BYTES_PER_TEXEL = 200
"""Positions, normals, colours, indices and their copies during a bake."""
IMAGE_COPIES = 16
"""Float images per view that are alive at the peak: renders, latents, generated images."""
_SEED_STREAM = 0x0C0_371E7E
"""The noise differs from that of sampling with the same seed."""


@dataclass(frozen=True)
class CompletionReport:
    """What was completed, and at what cost."""

    family: str
    """Display name of the model's family."""
    method: str
    """How it was completed."""
    orbits: int
    """Orbits that were generated; 0 for score distillation and where nothing was unseen."""
    passes: int
    """Forward passes of the network, as estimated before the start."""
    estimated_seconds: float | None
    """Estimated time of the passes on a CPU; None on other devices."""
    seconds: float
    """Wall time of the completion."""
    unseen: float
    """Fraction of the texture that no view has seen: mean of M."""
    generated: float
    """Fraction of the texture that comes from the model."""
    cost: str = ""
    """The cost in words."""

    def lines(self) -> list[str]:
        """The report in words."""
        lines = [
            f"{self.unseen:.1%} of the texture is unseen, {self.generated:.1%} was generated with "
            f"{self.family} ({self.method})."
        ]
        if self.cost:
            lines.append(f"{sentence_case(self.cost)}.")
            lines.append(f"It took {self.seconds:.0f} seconds in all.")
        return lines


@dataclass(frozen=True, eq=False)
class CompletionResult:
    """A mesh with its completed texture."""

    mesh: Mesh
    """On the CPU; only its texture differs from the input."""
    coverage: Tensor
    """(h, w) in 0..1: the part of each texel's colour that comes from the model; 0 where seen."""
    preview: Tensor
    """(V, S, S, 3) the images of the last orbit, the input view first: generated where unseen."""
    report: CompletionReport


def complete_texture(
    mesh: Mesh,
    views: Views,
    model: MultiviewModel,
    image: Tensor | None = None,
    mask: Tensor | None = None,
    config: CompletionConfig | None = None,
    placement: Placement | None = None,
    progress: Progress = SILENT,
) -> CompletionResult:
    """Completes the parts of a texture that no view has seen, with a multi-view model.

    The geometry is fixed. Texels that the views see clearly (M = 0) stay as they are, bit for bit.

    Args:
        mesh: with uv and a texture, in the world of the cameras.
        views: the V views that the texture was baked from; the first shows the input image.
        model: a loaded model; it is not modified.
        image: (H, W, 3 or 4) input image of the model; the first view if None.
        mask: (H, W) in 0..1 of the image, 1 on the object.
        config: method and cost.
        placement: device and dtype of the model's parts; all on the CPU if None.
        progress: receives each step, with previews.

    Raises:
        InputError: the mesh has no texture or no uv, the views do not fit it or are black, a mask
            comes without its image, the method needs a model that takes camera angles, or the
            memory does not suffice.
        StageError: the model returned NaN or infinite values, in float32 too.
        Cancelled: the user cancelled.
    """
    with torch.inference_mode(False), torch.no_grad():
        given = (ordinary(mesh), ordinary(views), model, ordinary(image), ordinary(mask))
        return _complete(*given, config or CompletionConfig(), placement, progress)


def _complete(
    mesh: Mesh,
    views: Views,
    model: MultiviewModel,
    image: Tensor | None,
    mask: Tensor | None,
    config: CompletionConfig,
    placement: Placement | None,
    progress: Progress,
) -> CompletionResult:
    """`complete_texture` outside inference mode."""
    start, family = time.perf_counter(), model.family
    _check_model(model, config)
    placement = placement or OneDevice(model, torch.device("cpu"))
    size_px = check_size_px(model, config.size_px or family.size_px)
    if image is None and mask is not None:
        raise InputError("a mask is given without its image.", "Pass the image, too.")
    _check_inputs(mesh, views, model, size_px)
    mesh, views = mesh.to("cpu").with_origin(views.cameras.origin), views.to("cpu")
    check_views_fit(mesh, views, progress)
    shaded = mesh.with_smooth_normals() if mesh.normals is None else mesh
    shaded = replace(shaded, origin=ZERO_ORIGIN)
    caster = RayCaster.from_mesh(shaded)
    texels = rasterise_texels(shaded, tuple(mesh.texture.shape[:2]), progress)
    cosines = best_cosines(caster, texels, replace(views.cameras, origin=ZERO_ORIGIN), progress)
    all_unseen = unseen_weight(cosines)
    unseen = _without_shared(shaded, texels, all_unseen, progress)
    scene = make_scene(shaded, views.cameras, family, texels, unseen)
    prepared = _input_image(image, mask, views, scene, size_px)
    prior = ViewPrior(model, prepared, placement, config.seed, config.memory_gib, progress)
    work = _Completion(scene, prior, config, progress)
    if float(unseen.max()) <= MIN_UNSEEN:
        if float(all_unseen.max()) <= MIN_UNSEEN:
            logger.warning("the views see the whole mesh: there is nothing to complete.")
        texture, orbits, passes, cost, seconds = mesh.texture, 0, 0, "", None
    else:
        _warn_of_much_unseen(float(unseen.mean()), len(views))
        evaluations, orbits = work.plan()
        passes = evaluations * prior.passes_per_evaluation
        cost, seconds = prior.log_cost(passes)
        if config.method == "resample":
            texture = work.resample(orbits)
        else:
            reference = TextureRenderer.of(shaded, caster, views.cameras, progress)
            texture = work.distil(reference, views)
    texture = _with_level_seams(mesh, texture, scene, progress)
    report = CompletionReport(
        family.label,
        config.method,
        orbits,
        passes,
        seconds,
        time.perf_counter() - start,
        float(all_unseen.mean()),
        float(work.generated.mean()),
        cost,
    )
    result = replace(mesh, texture=texture)
    return CompletionResult(result, work.coverage(), work.preview(), report)


def _check_model(model: MultiviewModel, config: CompletionConfig) -> None:
    """Raises InputError for models that cannot complete a texture by the configured method."""
    family = model.family
    has_orbit = isinstance(model, MultiviewModel) and family.orbit in ORBIT_PRESETS
    if not has_orbit or isinstance(model.unet, FeedbackUNet):
        raise InputError(
            f"{family.label} cannot complete textures.",
            "Use NOVA3D, Wonder3D, V3D or SV3D; SV3D p also reaches surfaces that face up or down.",
        )
    if config.method != "resample" and not family.free_angles:
        raise InputError(
            f"the method {config.method} needs a model that takes the elevation of each camera, "
            f"but {family.label} generates a single orbit.",
            "Use the method resample, or SV3D p.",
        )


def _check_inputs(mesh: Mesh, views: Views, model: MultiviewModel, size_px: int) -> None:
    """Raises InputError for a mesh or views that cannot be used, or too little memory."""
    family = model.family
    if mesh.uv is None:
        raise InputError("the mesh has no UV coordinates.", "Unwrap and bake it first.")
    if mesh.texture is None:
        raise InputError("the mesh has no texture to complete.", "Bake one from the views first.")
    if float(views.colour.max()) < BLACK:
        raise InputError(
            "all views are black.", "Check the node or file that they come from: nothing is shown."
        )
    height, width = mesh.texture.shape[:2]
    pixels = family.views * size_px**2
    check_memory(
        f"completing a texture of {width}x{height} px with {family.label}",
        height * width * BYTES_PER_TEXEL + pixels * (BYTES_PER_PIXEL + IMAGE_COPIES * 12),
        available_bytes(),
        "Use a smaller texture or smaller images, or close other programs.",
    )


def _without_shared(mesh: Mesh, texels: Texels, unseen: Tensor, progress: Progress) -> Tensor:
    """(T,) M, 0 for texels that several parts of the surface share: one of them may be seen."""
    kept = overlapping_texels(mesh, texels, progress) & (unseen > MIN_UNSEEN)
    if bool(kept.any()):
        logger.warning(
            "%.1f %% of the texture is unseen, but stays as it is, because other parts of the "
            "surface use the same texels (overlapping UVs). To complete it, too, bake the texture "
            "with new UVs.",
            100.0 * float(kept.float().mean()),
        )
    return unseen.masked_fill(kept, 0.0)


def _warn_of_much_unseen(fraction: float, views: int) -> None:
    if fraction > MOSTLY_UNSEEN:
        logger.warning(
            "%.0f %% of the texture is unseen by the %s: most of it will be the model's invention.",
            100.0 * fraction,
            counted(views, "view"),
        )


def _input_image(
    image: Tensor | None, mask: Tensor | None, views: Views, scene: CompletionScene, size_px: int
) -> Tensor:
    """(S, S, 3) the model's input image: the given one, else the first view."""
    ratio = scene.family.foreground_ratio
    if image is not None:
        return preprocess_image(image, mask, size_px, ratio).image
    mask = None if views.masks is None else views.masks[0]
    return preprocess_image(views.colour[0], mask, size_px, ratio, scene.has_own_camera).image


@dataclass(eq=False)
class _Completion:
    """State of one completion."""

    scene: CompletionScene
    prior: ViewPrior
    config: CompletionConfig
    progress: Progress

    def __post_init__(self):
        seed = (self.config.seed ^ _SEED_STREAM) % 2**64
        self.generator = torch.Generator().manual_seed(seed)
        self.remaining = self.scene.unseen.clone()  # (T,) M of what is still to be generated
        self.generated = torch.zeros_like(self.remaining)  # (T,) part that the model generated
        self.frames = torch.ones(1, self.prior.size_px, self.prior.size_px, 3)

    def plan(self) -> tuple[int, int]:
        """Evaluations of the denoiser and orbits that the configured method takes."""
        if self.config.method != "resample":
            return distillation_evaluations(self.config), 0
        orbits = self.config.orbits
        if orbits > 1 and not self.scene.family.free_angles:
            logger.warning(
                "%s generates a single orbit: orbits = %d is taken as 1.",
                self.scene.family.label,
                orbits,
            )
            orbits = 1
        return orbits * self.config.steps, orbits

    def resample(self, orbits: int) -> Tensor:
        """(h, w, 3) the texture, completed orbit by orbit."""
        texture = self.scene.mesh.texture
        for _ in range(orbits):
            if float(self.remaining.max()) <= MIN_UNSEEN:
                break
            texture = self._complete_along_orbit(texture)
        return texture

    def _complete_along_orbit(self, texture: Tensor) -> Tensor:
        """The texture (h, w, 3) with what one orbit of generated images adds."""
        scene, prior = self.scene, self.prior
        orbit = scene.orbit(prior.size_px, self.remaining, self.generator, self.progress)
        renders = orbit.renderer.render(as_planes(texture))  # (V, S, S, 3)
        unseen_planes = scene.planes(self.remaining[:, None])
        unseen = orbit.renderer.render(unseen_planes, background=0.0)[..., 0]  # (V, S, S)
        if float(unseen.max()) <= MIN_UNSEEN:
            logger.warning("the orbit shows none of the unseen parts: they stay as they are.")
            return texture
        generated = self._generate(orbit, renders, unseen)
        composed = torch.lerp(renders, generated, unseen[..., None])
        self.frames = orbit.trajectory.input_view_first(composed)
        images = torch.where(unseen[..., None] > MIN_UNSEEN, generated, renders)
        return self._bake(texture, orbit, images, unseen)

    def _generate(self, orbit: OrbitViews, renders: Tensor, unseen: Tensor) -> Tensor:
        """(V, S, S, 3) images resampled where M (V, S, S) is above 0."""
        prior, config = self.prior, self.config
        latents = prior.encode(orbit.images(renders))  # (D, 1, V, C, h, w)
        mask = torch.zeros(len(latents), 1, *latents.shape[2:3], 1, *latents.shape[-2:])
        mask[0, 0] = latent_mask(unseen, prior.model.codec.factor)  # normals stay the mesh's
        low, high = prior.sigma_range
        sigmas = karras_sigmas(config.steps, low, min(config.start_noise, high))
        noise = torch.randn(latents.shape, generator=self.generator)

        def resample(denoise, device: torch.device) -> Tensor:
            order = orbit.trajectory.input_view_first
            previewer = LatentPreviewer(order, codec=prior.model.codec)

            def on_evaluation(done: int, denoised: Tensor) -> None:
                preview = previewer.preview(denoised)
                self.progress.update(STAGE, done, config.steps, preview)

            self.progress.update(STAGE, 0, config.steps)
            tensors = (each.to(device) for each in (latents, mask, noise))
            return masked_resample(denoise, *tensors, sigmas, on_evaluation)

        return prior.decode(prior.run(orbit.trajectory, resample))[0]

    def _bake(self, texture: Tensor, orbit: OrbitViews, images: Tensor, unseen: Tensor) -> Tensor:
        """The texture (h, w, 3) with the unseen parts of images (V, S, S, 3) baked into it."""
        scene = self.scene
        kept = torch.nonzero((unseen > MIN_UNSEEN).flatten(1).any(dim=1))[:, 0]
        views, edits = generated_views(
            orbit, images, unseen > MIN_UNSEEN, kept, scene.family.upscale
        )
        mesh = replace(scene.mesh, texture=texture)
        own = OwnColour(mesh, keeps_uv=True)
        config = BakeConfig(
            texture_px=max(16, *texture.shape[:2]), exposure=False, reference_view_votes=1.0
        )
        try:
            baked = bake_texture(
                mesh, views, config, self.progress, own_colour=own, edit_masks=edits
            )
        except StageError:  # no texel is observed
            logger.warning("the generated images show none of the unseen parts clearly.")
            return texture
        index = scene.texels.index
        before, after = (each.reshape(-1, 3)[index] for each in (texture, baked.mesh.texture))
        colour = torch.lerp(before, after, self.remaining[:, None])
        changed = (self.remaining > 0.0) & (colour != before).any(dim=1)
        certainty = baked.coverage.reshape(-1)[index]  # (T,)
        self.generated += (1.0 - self.generated) * self.remaining * certainty
        self.remaining *= 1.0 - certainty
        return own.merged_texture(scene.texels, colour, changed)

    def distil(self, reference: TextureRenderer, views: Views) -> Tensor:
        """(h, w, 3) the texture after score distillation."""
        distillation = Distillation(
            self.scene, self.prior, reference, views, self.config, self.generator, self.progress
        )
        texture, orbit = distillation.run()
        self.frames = orbit.trajectory.input_view_first(orbit.renderer.render(as_planes(texture)))
        self.generated = self.scene.unseen.clone()
        return texture

    def coverage(self) -> Tensor:
        """(h, w) part of each texel's colour that the model generated."""
        coverage = torch.zeros(self.scene.texels.size_px)
        coverage.reshape(-1)[self.scene.texels.index] = self.generated
        return coverage

    def preview(self) -> Tensor:
        """(V, S, S, 3) the images of the last orbit."""
        return self.frames.clamp(0.0, 1.0)


def generated_views(
    orbit: OrbitViews, images: Tensor, edited: Tensor, kept: Tensor, factor: int
) -> tuple[Views, Tensor]:
    """Views and edit masks (K, H, W) of generated images, for the bake.

    Args:
        orbit: their cameras.
        images: (V, S, S, 3) in 0..1.
        edited: (V, S, S) bool, the pixels to bake.
        kept: (K,) indices of the views to bake.
        factor: of bicubic upscaling, as for sampled views of the family.
    """
    coverage = orbit.renderer.coverage
    masks = torch.stack([object_mask(images[view], coverage[view]) for view in kept.tolist()])
    views = upscale(Views(orbit.trajectory.cameras[kept], images[kept], masks), factor)
    edits = edited[kept].float()
    size = (views.cameras.height, views.cameras.width)
    return views, functional.interpolate(edits[:, None], size)[:, 0]


def object_mask(image: Tensor, coverage: Tensor) -> Tensor:
    """(S, S) the pixels of a generated image (S, S, 3) that show the object on the mesh.

    A model may generate a smaller silhouette than the mesh's: its background must not be baked.
    """
    if float(image.amin()) >= 1.0 - WHITE_TOLERANCE:
        return torch.zeros_like(coverage)
    try:
        matte = matte_from_white(image[None])[0]
    except InputError:  # the background is not white
        return coverage
    return torch.minimum(matte, coverage)


def _with_level_seams(
    mesh: Mesh, texture: Tensor, scene: CompletionScene, progress: Progress
) -> Tensor:
    """The texture; its texels that changed agree across the seams."""
    progress.check(STAGE)
    if torch.equal(texture, mesh.texture):
        return mesh.texture
    texels = scene.texels
    changed = (texture != mesh.texture).any(dim=-1).flatten()[texels.index]
    colour = level_seams(mesh, texture, texels, changed)
    own = OwnColour(mesh, keeps_uv=True)
    return own.merged_texture(texels, colour.clamp(0.0, 1.0), changed)

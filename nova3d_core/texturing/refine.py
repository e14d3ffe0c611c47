"""Texture refinement: optimises a texture so that its renders match the views; geometry is fixed.

Views that contradict each other are first moved onto the renders of what they have in common
(`alignment`), and the texture is baked again from them. Then the texture itself is optimised, as in
V3D (Z. Chen et al., 2024, section 3.3), which refines vertex colours with MSE and LPIPS.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ..compute.host_memory import available_bytes, check_memory
from ..errors import InputError, StageError
from ..fusion.preview import PreviewClock
from ..imaging.matte import matte_from_white
from ..mesh import Mesh
from ..perceptual.losses import ssim_map
from ..perceptual.lpips import Features, Lpips, load_lpips
from ..progress import SILENT, Progress
from ..rendering.raycast import RayCaster
from ..views import Views
from .alignment import align_views
from .bake import bake_texture
from .config import BakeConfig, RefineConfig
from .fill import nearest_texels
from .own_colour import OwnColour
from .seams import level_seams
from .surface_pixels import SurfacePixels, as_planes, samples_per_side, surface_pixels
from .texels import Texels, rasterise_texels
from .view_fit import check_views_fit
from .visibility import boundary_weight, depth_discontinuities

logger = logging.getLogger(__name__)

STAGE = "refining"
ALIGN_ROUNDS = 3
"""Rounds of rendering, moving the views, and baking."""
BOUNDARY_PX = 2.0
"""Weights ramp up over this distance from silhouettes and depth discontinuities."""
ANGLE_POWER = 4.0
"""The weight of a pixel is the cosine between normal and viewing direction, to this power."""
SSIM_WEIGHT, LPIPS_WEIGHT = 0.2, 1.0
SMOOTH_L1 = 1.0 / 255.0
"""Differences below one 8-bit level count quadratically, so that equal images do not move."""
LEARNING_RATE, LEARNING_RATE_DECAY = 0.02, 0.05
"""Largest change by the L1 loss in one round through all views, in sRGB values of 0..1; decays
exponentially to a twentieth."""
MIN_WEIGHT_RATIO = 0.05
"""Texels with a smaller weight than this, relative to the mean, move less."""
MAX_CACHED_BYTES = 1 << 30
"""Upper bound of the memory for LPIPS features of the views."""
BYTES_PER_TEXEL = 100
"""Texture, gradient, moments and indices."""
LARGE_DIFFERENCE = 0.12
"""Mean difference between renders and views from which the texture is of something else."""


@dataclass(frozen=True, eq=False)
class RefineResult:
    """A mesh with its refined texture."""

    mesh: Mesh
    """On the CPU; only its texture differs from the input."""
    views: Views
    """The views as they were moved."""
    warp_px: float
    """Root mean square displacement of the views in pixels; 0 if they were not moved."""
    difference_before: float
    """Weighted mean absolute difference of the given texture's renders from the given views."""
    difference: float
    """The same of the refined texture and the moved views."""


def refine_texture(
    mesh: Mesh,
    views: Views,
    config: RefineConfig | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
    lpips: Lpips | None = None,
) -> RefineResult:
    """Refines the texture of a mesh by the views that it was baked from.

    Texels that no view sees clearly stay as they are, bit for bit.

    Args:
        mesh: with uv and a texture, in the world of the cameras.
        views: V views with masks, or on a white background.
        config: steps and loss.
        progress: receives each step, with a preview at most once per second.
        device: of the optimisation.
        lpips: network for the loss "lpips"; by default `load_lpips()`.

    Raises:
        InputError: the mesh has no texture, the views do not fit it (see `check_views_fit`), the
            texture does not fit into memory, or there is no backbone for LPIPS.
        StageError: no view sees the mesh clearly.
        Cancelled: cancelled by `progress`.
    """
    config = config or RefineConfig()
    if mesh.texture is None:
        raise InputError("the mesh has no texture to refine.", "Bake one from the views first.")
    height, width = mesh.texture.shape[:2]
    check_memory(
        f"refining a texture of {width}x{height} px",
        height * width * BYTES_PER_TEXEL,
        available_bytes(),
        "Use a smaller texture.",
    )
    if config.perceptual == "lpips" and config.steps and lpips is None:
        lpips = load_lpips(device=device)
    mesh, views = mesh.to("cpu").with_origin(views.cameras.origin), views.to("cpu")
    check_views_fit(mesh, views, progress)
    if views.masks is None:
        views = replace(views, masks=matte_from_white(views.colour))
    shaded = mesh.with_smooth_normals() if mesh.normals is None else mesh
    result = _Refiner(shaded, views, config, progress, device, lpips).run()
    return replace(result, mesh=replace(mesh, texture=result.mesh.texture))


class _Refiner:
    """State of one refinement."""

    def __init__(
        self,
        mesh: Mesh,
        views: Views,
        config: RefineConfig,
        progress: Progress,
        device: torch.device | str,
        lpips: Lpips | None,
    ):
        self.mesh, self.views, self.config, self.progress = mesh, views, config, progress
        self.device = torch.device(device)
        self.lpips = lpips if config.perceptual == "lpips" else None
        caster, per_side = RayCaster.from_mesh(mesh), samples_per_side(views.cameras)
        self.pixels: list[SurfacePixels | None] = []
        self.discontinuities: list[Tensor] = []
        """(H, W) bool of each view."""
        for view in progress.track(range(len(views)), "casting rays", len(views)):
            camera = views.cameras[view]
            self.pixels.append(surface_pixels(mesh, caster, camera, per_side))
            self.discontinuities.append(depth_discontinuities(caster, camera))
        self.clock = PreviewClock()

    def run(self) -> RefineResult:
        """Alignment, then optimisation."""
        weights = self._weights(self.views)
        if not any(bool(each.any()) for each in weights):
            raise StageError(
                STAGE,
                "no view sees the mesh clearly.",
                "Check that mesh and cameras share one world frame.",
            )
        before = self._difference(self.mesh.texture, self.views, weights)
        if before > LARGE_DIFFERENCE:
            logger.warning(
                "the texture differs from the views by %.2f in the mean (of 1): was it baked from "
                "other views? Bake it from these views first",
                before,
            )
        mesh, views, warp_px = self.mesh, self.views, 0.0
        if self.config.perceptual != "none" and len(views) > 1:
            mesh, views, warp_px = self._align()
            weights = self._weights(views)
        if self.config.steps:
            targets = [
                None if seen is None else views.colour[view][seen.crop].clone()
                for view, seen in enumerate(self.pixels)
            ]
            mesh = replace(mesh, texture=self._optimise(mesh, targets, weights))
        mesh = self._with_level_seams(mesh)
        after = self._difference(mesh.texture, views, weights)
        return RefineResult(mesh, views, warp_px, before, after)

    def _with_level_seams(self, mesh: Mesh) -> Mesh:
        """The mesh; its texels that changed agree across seams."""
        if torch.equal(mesh.texture, self.mesh.texture):
            return mesh
        texels = rasterise_texels(mesh, tuple(mesh.texture.shape[:2]))
        changed = (mesh.texture != self.mesh.texture).any(dim=-1).flatten()[texels.index]
        colour = level_seams(mesh, mesh.texture, texels, changed)
        texture = OwnColour(mesh, keeps_uv=True).merged_texture(texels, colour, changed)
        return replace(mesh, texture=texture)

    def _weights(self, views: Views) -> list[Tensor]:
        """(H, W) weight of each view's crop: its object off silhouettes, frontal surfaces most."""

        def weight(view: int, seen: SurfacePixels) -> Tensor:
            covered = seen.coverage >= 1.0
            return self._clear(view, seen, views.masks[view]) * covered * seen.cosine**ANGLE_POWER

        return self._each_view(weight)

    def _silhouette_weights(self) -> list[Tensor]:
        """(H, W) weight of each view's crop in the registration: off the render's silhouettes."""

        def weight(view: int, seen: SurfacePixels) -> Tensor:
            mask = torch.zeros(self.views.masks.shape[1:])
            mask[seen.crop] = seen.coverage
            return self._clear(view, seen, mask)

        return self._each_view(weight)

    def _each_view(self, weight: Callable[[int, SurfacePixels], Tensor]) -> list[Tensor]:
        """The weights of each view; (1, 1) zeros where it does not see the mesh."""
        weights = []
        for view, seen in enumerate(self.pixels):
            self.progress.check(STAGE)
            weights.append(torch.zeros(1, 1) if seen is None else weight(view, seen))
        return weights

    def _clear(self, view: int, seen: SurfacePixels, mask: Tensor) -> Tensor:
        """(H, W) of the crop: 0 at silhouettes and depth discontinuities, 1 far from them."""
        return boundary_weight(mask, self.discontinuities[view], BOUNDARY_PX)[seen.crop]

    def _align(self) -> tuple[Mesh, Views, float]:
        """The mesh with a texture of the moved views, these views, and their displacement."""
        weights = self._silhouette_weights()
        mesh, aligned = self.mesh, None
        own = OwnColour.of(self.mesh, keeps_uv=True)
        config = BakeConfig(texture_px=max(16, *self.mesh.texture.shape[:2]))
        for _ in range(ALIGN_ROUNDS):
            start = () if aligned is None else aligned.registrations
            texture = as_planes(mesh.texture)
            found = align_views(texture, self.views, self.pixels, weights, self.progress, start)
            if found is None:
                break
            aligned = found
            everywhere = torch.ones_like(aligned.views.masks)
            mesh = bake_texture(
                self.mesh,
                aligned.views,
                config,
                self.progress,
                own_colour=own,
                edit_masks=everywhere,
            ).mesh
        if aligned is None:
            return self.mesh, self.views, 0.0
        return replace(self.mesh, texture=mesh.texture), aligned.views, aligned.warp_px

    def _difference(self, texture: Tensor, views: Views, weights: list[Tensor]) -> float:
        """Weighted mean absolute difference of the texture's renders from views."""
        total, sums, planes = 0.0, 0.0, as_planes(texture)
        for view, seen in enumerate(self.pixels):
            if seen is not None:
                error = (seen.render(planes) - views.colour[view][seen.crop]).abs().mean(dim=-1)
                sums += float((weights[view] * error).sum())
                total += float(weights[view].sum())
        return sums / max(total, 1e-6)

    def _optimise(self, mesh: Mesh, targets: list[Tensor | None], weights: list[Tensor]) -> Tensor:
        """(h, w, 3) the optimised texture; padding follows the texels inside the charts.

        A few steps fit some views at the expense of the others: if all views together fit no
        better than before, the texture stays as it was.
        """
        used = [view for view, weight in enumerate(weights) if bool(weight.any())]
        losses = {
            view: _ViewLoss.of(self.pixels[view], targets[view], weights[view], self.device)
            for view in used
        }
        if self.lpips is not None:
            _cache_features(list(losses.values()), self.lpips)
        height, width = mesh.texture.shape[:2]
        texels = rasterise_texels(mesh, (height, width))
        given = as_planes(mesh.texture).to(self.device)
        texture = given.clone().requires_grad_()
        steps = _TexelSteps.of(texels, list(losses.values()), texture)
        random, order = torch.Generator().manual_seed(0), []
        for step in range(self.config.steps):
            order = order or [used[each] for each in torch.randperm(len(used), generator=random)]
            rate = LEARNING_RATE * LEARNING_RATE_DECAY ** (step / self.config.steps)
            view = order.pop()
            render = losses[view].pixels.render(texture)
            loss = losses[view](render, self.lpips)
            if not bool(loss.detach().isfinite()):
                raise StageError(STAGE, "the loss became infinite.", "Check the views for NaN.")
            texture.grad = None
            loss.backward()
            steps.step(texture, rate)
            preview = _preview(render) if self.clock.is_due() else None
            self.progress.update(STAGE, step + 1, self.config.steps, preview)
        texture = texture.detach().clamp_(0.0, 1.0)
        before, after = (self._mean_loss(losses, each) for each in (given, texture))
        logger.info("mean loss of the views: %.5f before and %.5f after", before, after)
        if after >= before:
            return mesh.texture
        result = texture[0].permute(1, 2, 0).cpu()
        own = OwnColour(mesh, keeps_uv=True)
        colour = result.reshape(-1, 3)[texels.index]
        return own.merged_texture(texels, colour, steps.seen.cpu()[texels.index])

    @torch.no_grad()
    def _mean_loss(self, losses: dict[int, _ViewLoss], texture: Tensor) -> float:
        """Mean loss of a texture (1, 3, h, w) over the views that see it."""
        total = 0.0
        for loss in losses.values():
            self.progress.check(STAGE)
            total += float(loss(loss.pixels.render(texture), self.lpips))
        return total / len(losses)


@dataclass(eq=False)
class _ViewLoss:
    """Difference of renders from one view, weighted per pixel."""

    pixels: SurfacePixels
    target: Tensor  # (H, W, 3)
    weights: Tensor  # (H, W)
    features: Features | None = None

    @classmethod
    def of(
        cls, pixels: SurfacePixels, target: Tensor, weights: Tensor, device: torch.device
    ) -> _ViewLoss:
        return cls(pixels.to(device), target.to(device), weights.to(device))

    def __call__(self, render: Tensor, lpips: Lpips | None) -> Tensor:
        """(1 - w) L1 + w (1 - SSIM), and LPIPS, of a render (H, W, 3); pixels without weight
        are constant and equal in both images."""
        used = (self.weights > 0.0)[..., None]
        fixed = render.detach()
        result = torch.where(used, render, fixed)
        target = torch.where(used, self.target, fixed)
        total = self.weights.sum()
        smooth = functional.smooth_l1_loss(result, target, reduction="none", beta=SMOOTH_L1)
        absolute = (smooth.mean(dim=-1) * self.weights).sum() / total
        similarity = ssim_map(result.permute(2, 0, 1), target.permute(2, 0, 1)).mean(dim=0)
        dissimilarity = ((1.0 - similarity) * self.weights).sum() / total
        loss = (1.0 - SSIM_WEIGHT) * absolute + SSIM_WEIGHT * dissimilarity
        if lpips is None:
            return loss
        white = torch.where(used, result, 1.0)
        features = lpips.features(_at_least(white, lpips.backbone.min_px)[None])
        reference = self.features or self.target_features(lpips)
        return loss + LPIPS_WEIGHT * lpips.distance(features, reference).mean()

    @torch.no_grad()
    def target_features(self, lpips: Lpips) -> Features:
        """Features of the view, on white where it has no weight."""
        white = torch.where((self.weights > 0.0)[..., None], self.target, 1.0)
        return lpips.features(_at_least(white, lpips.backbone.min_px)[None])


def _cache_features(losses: list[_ViewLoss], lpips: Lpips) -> None:
    """Stores the views' LPIPS features, as many as the memory bound allows."""
    remaining = MAX_CACHED_BYTES
    for loss in losses:
        features = loss.target_features(lpips)
        remaining -= sum(each.numel() * each.element_size() for each in features)
        if remaining < 0:
            return
        loss.features = features


@dataclass(frozen=True, eq=False)
class _TexelSteps:
    """Steps of the texels; those outside the charts copy the nearest texel inside."""

    seen: Tensor  # (h * w,) bool: texels that contribute to a pixel with a weight
    scale: Tensor  # (h * w,) step of a texel per gradient: the inverse of its weight in all views
    outside: Tensor  # (Q,) of them, those outside all charts
    nearest: Tensor  # (Q,) texels inside that they copy

    @classmethod
    def of(cls, texels: Texels, losses: list[_ViewLoss], texture: Tensor) -> _TexelSteps:
        probe = torch.zeros_like(texture).requires_grad_()
        for loss in losses:
            weights = loss.weights / loss.weights.sum()
            (weights * loss.pixels.render(probe).mean(dim=-1)).sum().backward()
        weight = probe.grad[0, 0].flatten()  # a third of the sum over the channels
        nearest = nearest_texels(texels).to(weight.device)
        own = torch.arange(len(weight), device=weight.device)
        outside = torch.nonzero((weight > 0.0) & (nearest != own))[:, 0]
        weight.index_add_(0, nearest[outside], weight[outside])
        weight[outside] = 0.0
        seen = weight > 0.0
        mean = weight.sum() / seen.sum().clamp_min(1)
        scale = torch.where(seen, 1.0 / (weight + MIN_WEIGHT_RATIO * mean), 0.0)
        return cls(seen, scale, outside, nearest[outside])

    @torch.no_grad()
    def step(self, texture: Tensor, rate: float) -> None:
        """One step down the gradient, relative to the weight of each texel.

        Padding adds its gradient to the texels that it copies, and then copies them.
        """
        gradient, values = texture.grad.view(3, -1), texture.view(3, -1)
        gradient.index_add_(1, self.nearest, gradient[:, self.outside])
        values -= rate * self.scale * gradient
        values[:, self.outside] = values[:, self.nearest]


def _at_least(image: Tensor, side: int) -> Tensor:
    """The image (H, W, 3), padded with white to at least `side` pixels."""
    height, width = image.shape[:2]
    padding = (0, 0, 0, max(side - width, 0), 0, max(side - height, 0))
    return functional.pad(image, padding, value=1.0)


def _preview(render: Tensor) -> Callable[[], Tensor]:
    """Deferred preview (H, W, 3) of a render."""
    image = render.detach()
    return lambda: image.clamp(0.0, 1.0).cpu()

"""Texture baking: each texel blends the colours of the views that observe it well and agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checks import check_finite, check_range, check_shape
from ..errors import InputError, StageError
from ..imaging.sampling import sample_image
from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..rendering.raycast import RayCaster
from ..views import Views
from ..wording import counted, there_are
from .config import BakeConfig
from .consistency import consistency_maps
from .exposure import estimate_gains, saturation_confidence
from .exposure_maps import GainMaps, estimate_gain_maps
from .fill import fill_unobserved, pad_charts
from .image_scale import downsample_for_bake, downsampling_factor
from .observations import collect_observations, subsample_texels
from .own_colour import OwnColour
from .texels import STAGE, Texels, rasterise_texels, vertex_texels
from .view_images import extend_foreground, sharpen_image
from .visibility import (
    VisiblePoints,
    boundary_weight,
    depth_discontinuities,
    visible_points,
)

TEXELS_PER_CHUNK = 1 << 18
_ANGLE_POWER = 6.0
"""The weight of a view is the cosine between surface normal and viewing direction, to this
power."""
_BOUNDARY_PX = 2.0
"""The weight of a view ramps up over this distance from silhouettes and depth discontinuities."""
_FULL_WEIGHT = 0.02
"""Total weight at which a texel takes nothing from its neighbours."""


@dataclass(frozen=True, eq=False)
class BakeResult:
    """A textured mesh, with the coverage of its texture and the estimated gains of the views."""

    mesh: Mesh
    """The mesh with its texture."""
    coverage: Tensor
    """(H, W) in 0..1: 1 where a texel was observed, 0 where it was filled or kept."""
    gains: Tensor
    """(V, 3) estimated gains of each view's colour channels; they are undone in the texture."""


def bake_texture(
    mesh: Mesh,
    views: Views,
    config: BakeConfig | None = None,
    progress: Progress = SILENT,
    conflict: Tensor | None = None,
    own_colour: OwnColour | None = None,
    edit_masks: Tensor | None = None,
) -> BakeResult:
    """Bakes the views' colours into a texture; the result is on the CPU.

    Texels that no view observes keep the mesh's own colour, or are inpainted if it has none.

    Args:
        mesh: a mesh with uv.
        views: V views; colours outside their masks never reach the texture.
        config: texture size and weights.
        progress: reports each view.
        conflict: (V, H, W) in 0..1; a pixel has its weight multiplied by one minus its conflict.
        own_colour: the colours of the mesh before the bake, if they are to be kept.
        edit_masks: (V, H, W) in 0..1: only these pixels are baked, over the mesh's own colour. If
            the mesh keeps its uv, the texture keeps its size.

    Raises:
        InputError: the mesh has no uv, the maps or masks do not match the views, or there are edit
            masks but no own colour.
        StageError: no view observes the mesh.
    """
    config = config or BakeConfig()
    mesh, views = mesh.to("cpu"), views.to("cpu")
    if conflict is not None:
        conflict = _check_conflict(conflict.detach().float().cpu(), views)
    if edit_masks is not None:
        edit_masks = edit_masks.detach().float().cpu()
        check_edit_masks(edit_masks, views, own_colour is not None)
    if mesh.normals is None:
        mesh = mesh.with_smooth_normals()
    progress.check(STAGE)
    size_px = (config.texture_px, config.texture_px)
    if edit_masks is not None:
        size_px = own_colour.texture_size_px or size_px
    texels = rasterise_texels(mesh, size_px, progress)
    if edit_masks is None:
        factor = downsampling_factor(mesh, texels, views)
        views, conflict = downsample_for_bake(views, conflict, factor)
    baker = _Baker(mesh, views, config, conflict, edit_masks, progress)
    if config.exposure or config.consistency:
        baker.compare_views(texels, progress)
    colour, observed = baker.blend(texels, progress)
    if not bool(observed.any()):
        raise _nothing_observed_error(edit_masks is not None)
    progress.check(STAGE)
    if own_colour is None:
        colour = fill_unobserved(mesh, texels, colour, observed)
        progress.check(STAGE)
        texture = pad_charts(texels, colour)
    else:
        colour = torch.lerp(own_colour.at_texels(texels), colour, observed[:, None])
        progress.check(STAGE)
        texture = own_colour.merged_texture(texels, colour, observed > 0.0)
    progress.check(STAGE)
    coverage = torch.zeros(size_px)
    coverage.reshape(-1)[texels.index] = observed
    return BakeResult(
        replace(mesh, texture=texture.clamp(0.0, 1.0), vertex_colours=None), coverage, baker.gains
    )


def bake_vertex_colours(
    mesh: Mesh, views: Views, progress: Progress = SILENT, conflict: Tensor | None = None
) -> Mesh:
    """The mesh with the views' colours at its vertices, which needs no uv; on the CPU.

    For meshes with about one vertex per pixel of the views. Vertices that no view observes are
    interpolated over the surface.

    Args:
        mesh: a mesh without texture.
        views: V views with masks; colours outside them never reach the vertices.
        progress: reports each view.
        conflict: (V, H, W) as for `bake_texture`.

    Raises:
        StageError: no view observes the mesh.
    """
    mesh, views = mesh.to("cpu").with_smooth_normals(), views.to("cpu")
    if conflict is not None:
        conflict = _check_conflict(conflict.detach().float().cpu(), views)
    vertices = vertex_texels(mesh)
    factor = downsampling_factor(mesh, vertices, views)
    views, conflict = downsample_for_bake(views, conflict, factor)
    baker = _Baker(mesh, views, BakeConfig(), conflict, None, progress)
    baker.compare_views(vertices, progress)
    colour, observed = baker.blend(vertices, progress)
    if not bool(observed.any()):
        raise _nothing_observed_error(is_edit=False)
    progress.check(STAGE)
    filled = torch.full_like(mesh.vertices, 0.5)
    filled[vertices.index] = fill_unobserved(mesh, vertices, colour, observed).clamp(0.0, 1.0)
    return replace(mesh, vertex_colours=filled)


def _nothing_observed_error(is_edit: bool) -> StageError:
    if is_edit:
        return StageError(
            STAGE,
            "the edit masks cover no part of the mesh that their views see.",
            "Paint each mask on the image of its own view, and check that the cameras fit.",
        )
    return StageError(
        STAGE,
        "no view sees any part of the mesh.",
        "Check that mesh and cameras share one world frame, and that the masks cover the mesh.",
    )


def check_edit_masks(masks: Tensor, views: Views, has_own_colour: bool) -> None:
    """Raises InputError unless edit masks (V, H, W) can be used with V views.

    Args:
        masks: any tensor; valid in 0..1, of the size of the views, and not all empty.
        views: V views.
        has_own_colour: whether the mesh has a texture or vertex colours.
    """
    count, height, width = views.colour.shape[:3]
    if masks.shape != (count, height, width):
        raise InputError(
            f"{there_are(len(masks), 'edit mask')} of {masks.shape[-1]}x{masks.shape[-2]} px for "
            f"{counted(count, 'view')} of {width}x{height} px.",
            "Give one mask per view, of the size of its image, empty where a view has no edit.",
        )
    check_finite("edit masks", masks)
    check_range("edit masks", masks, 0.0, 1.0)
    if not bool(masks.any()):
        raise InputError("all edit masks are empty.", "Mark the pixels to bake with 1.")
    if not has_own_colour:
        raise InputError(
            "edit masks need a mesh with a texture or vertex colours to keep.",
            "Bake the whole texture once without edit masks, or keep the mesh's texture.",
        )


def _check_conflict(conflict: Tensor, views: Views) -> Tensor:
    count, height, width = views.colour.shape[:3]
    check_shape("conflict", conflict, "V H W", V=count, H=height, W=width)
    check_finite("conflict", conflict)
    check_range("conflict", conflict, 0.0, 1.0)
    return conflict


class _Baker:
    """State of one bake: per-pixel confidence, gains of the views, then the blend."""

    def __init__(
        self,
        mesh: Mesh,
        views: Views,
        config: BakeConfig,
        conflict: Tensor | None,
        edit_masks: Tensor | None,
        progress: Progress,
    ):
        self.cameras, self.config = views.cameras, config
        self.edit_masks = edit_masks
        self.caster = RayCaster.from_mesh(mesh)
        masks = views.masks
        if masks is None:
            masks = torch.ones(views.colour.shape[:3])
        self.views, self.masks = views, masks
        self.confidence = torch.zeros_like(masks)
        """(V, H, W) in 0..1: weight of each pixel."""
        for view, mask in enumerate(masks):
            progress.check(STAGE)
            discontinuities = depth_discontinuities(self.caster, self.cameras[view])
            self.confidence[view] = boundary_weight(mask, discontinuities, _BOUNDARY_PX)
        self.gains = torch.ones(len(views), 3)
        self.gain_maps: GainMaps | None = None
        for view in range(len(views)) if conflict is not None else ():
            self.confidence[view] *= 1.0 - conflict[view]
        if edit_masks is not None:  # views without an edit must not outvote those with one
            self.confidence *= edit_masks

    def compare_views(self, texels: Texels, progress: Progress) -> None:
        """Estimates the views' gains, and lowers the confidence of inconsistent pixels."""
        samples = subsample_texels(texels, len(self.cameras))
        visible = (self._visible_texels(samples, view) for view in self._checked_views(progress))
        images = (self._foreground(view) for view in range(len(self.cameras)))
        observations = collect_observations(samples, images, self.confidence, visible)
        progress.check(STAGE)
        if self.config.exposure:
            self.gains = estimate_gains(observations)
            progress.check(STAGE)
        observations = observations.without_gains(self.gains)
        height, width = self.confidence.shape[1:]
        if self.config.exposure and self.edit_masks is None:  # edits differ on purpose
            self.gain_maps = estimate_gain_maps(observations, height, width, progress)
            progress.check(STAGE)
        if self.gain_maps is not None:
            observations = self.gain_maps.undone(observations, height, width)
        if self.config.consistency:
            consistency_maps(observations, self.config, height, width, self.confidence, progress)

    def _checked_views(self, progress: Progress) -> Iterator[int]:
        """Indices of the views, with a check for a cancel before each."""
        for view in range(len(self.cameras)):
            progress.check(STAGE)
            yield view

    def _foreground(self, view: int) -> Tensor:
        """(H, W, 3) image of one view with its foreground extended; on demand, to save memory."""
        return extend_foreground(self.views.colour[view], self.masks[view])

    def _prepare_view(self, view: int) -> tuple[Tensor, Tensor]:
        """Image (H, W, 3) of one view with gain and blur undone, and its confidence (H, W)."""
        image, gain = self._foreground(view), self.gains[view]
        if self.gain_maps is not None:
            gain = gain * self.gain_maps.of_view(view, *image.shape[:2])
        confidence = self.confidence[view] * saturation_confidence(image, gain)
        image = image / gain
        return sharpen_image(image) if self.config.sharpen else image, confidence

    def blend(self, texels: Texels, progress: Progress) -> tuple[Tensor, Tensor]:
        """Weighted mean colour (T, 3) over the views, and its certainty (T,) in 0..1.

        With edit masks, the certainty is at most the largest mask value among the views.
        """
        count = len(texels.index)
        total, sums, edited = torch.zeros(count), torch.zeros(count, 3), torch.zeros(count)
        indices = torch.arange(count).split(TEXELS_PER_CHUNK)
        chunks = [(chunk, texels.select(chunk)) for chunk in indices]
        for view in progress.track(range(len(self.cameras)), STAGE, len(self.cameras)):
            image, confidence = self._prepare_view(view)
            for chunk, some in chunks:
                progress.check(STAGE)
                index, weights, colour, mask = self._sample_view(view, image, confidence, some)
                index = chunk[index]
                total.index_add_(0, index, weights)
                sums.index_add_(0, index, weights[:, None] * colour)
                edited[index] = torch.maximum(edited[index], mask)
        colour = sums / total.clamp_min(1e-9)[:, None]
        certainty = (total / _FULL_WEIGHT).clamp(0.0, 1.0)
        return colour.clamp(0.0, 1.0), torch.minimum(certainty, edited)

    def _sample_view(
        self, view: int, image: Tensor, confidence: Tensor, texels: Texels
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The S texels that one view observes: indices (S,), weights (S,), colours (S, 3) and
        values of the edit mask (S,), 1 without one."""
        visible = self._visible_texels(texels, view)
        weights = sample_image(confidence[..., None], visible.pixels)[:, 0]
        weights = weights * visible.cosine**_ANGLE_POWER
        kept = torch.nonzero(weights)[:, 0]
        pixels = visible.pixels[kept]
        mask = torch.ones(len(kept))
        if self.edit_masks is not None:
            mask = sample_image(self.edit_masks[view][..., None], pixels)[:, 0]
        return visible.index[kept], weights[kept], sample_image(image, pixels), mask

    def _visible_texels(self, texels: Texels, view: int) -> VisiblePoints:
        camera, min_cosine = self.cameras[view], self.config.min_cosine
        return visible_points(self.caster, texels.position, texels.normal, camera, min_cosine)

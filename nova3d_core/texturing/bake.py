"""Texture baking: each texel blends the colours of the views that observe it well and agree."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checks import check_finite, check_range, check_shape
from ..errors import StageError
from ..imaging.sampling import sample_image
from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..rendering.raycast import RayCaster
from ..views import Views
from .config import BakeConfig
from .consistency import consistency_maps
from .exposure import estimate_gains, saturation_confidence
from .fill import fill_unobserved, pad_charts
from .observations import collect_observations, subsample_texels
from .texels import Texels, rasterise_texels
from .view_images import extend_foreground, sharpen_image
from .visibility import VisiblePoints, boundary_weight, visible_points

STAGE = "baking"
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
    """(size, size) in 0..1: 1 where a texel was observed, 0 where it was filled."""
    gains: Tensor
    """(V, 3) estimated gains of each view's colour channels; they are undone in the texture."""


def bake_texture(
    mesh: Mesh,
    views: Views,
    config: BakeConfig | None = None,
    progress: Progress = SILENT,
    conflict: Tensor | None = None,
) -> BakeResult:
    """Bakes the views' colours into a texture; the result is on the CPU.

    Args:
        mesh: a mesh with uv.
        views: V views; colours outside their masks never reach the texture.
        config: texture size and weights.
        progress: reports each view.
        conflict: (V, H, W) in 0..1; a pixel has its weight multiplied by one minus its conflict.

    Raises:
        InputError: the mesh has no uv, or the conflict maps do not match the views.
        StageError: no view observes the mesh.
    """
    config = config or BakeConfig()
    mesh, views = mesh.to("cpu"), views.to("cpu")
    if conflict is not None:
        conflict = _check_conflict(conflict.detach().float().cpu(), views)
    if mesh.normals is None:
        mesh = mesh.with_smooth_normals()
    texels = rasterise_texels(mesh, config.texture_px)
    baker = _Baker(mesh, views, config, conflict)
    if config.exposure or config.consistency:
        progress.check(STAGE)
        baker.compare_views(texels)
    colour, observed = baker.blend(texels, progress)
    if not bool(observed.any()):
        raise StageError(
            STAGE,
            "no view sees any part of the mesh.",
            "Check that mesh and cameras share one world frame, and that the masks cover the mesh.",
        )
    colour = fill_unobserved(mesh, texels, colour, observed)
    coverage = torch.zeros(config.texture_px**2)
    coverage[texels.index] = observed
    texture = pad_charts(texels, colour).clamp(0.0, 1.0)
    return BakeResult(
        replace(mesh, texture=texture, vertex_colours=None),
        coverage.reshape(config.texture_px, config.texture_px),
        baker.gains,
    )


def _check_conflict(conflict: Tensor, views: Views) -> Tensor:
    count, height, width = views.colour.shape[:3]
    check_shape("conflict", conflict, "V H W", V=count, H=height, W=width)
    check_finite("conflict", conflict)
    check_range("conflict", conflict, 0.0, 1.0)
    return conflict


class _Baker:
    """State of one bake: per-pixel confidence, gains of the views, then the blend."""

    def __init__(self, mesh: Mesh, views: Views, config: BakeConfig, conflict: Tensor | None):
        self.cameras, self.config = views.cameras, config
        self.caster = RayCaster.from_mesh(mesh)
        masks = views.masks
        if masks is None:
            masks = torch.ones(views.colour.shape[:3])
        self.views, self.masks = views, masks
        self.confidence = torch.zeros_like(masks)
        """(V, H, W) in 0..1: weight of each pixel."""
        for view, mask in enumerate(masks):
            camera = self.cameras[view]
            self.confidence[view] = boundary_weight(self.caster, camera, mask, _BOUNDARY_PX)
        self.gains = torch.ones(len(views), 3)
        for view in range(len(views)) if conflict is not None else ():
            self.confidence[view] *= 1.0 - conflict[view]

    def compare_views(self, texels: Texels) -> None:
        """Estimates the views' gains, and lowers the confidence of inconsistent pixels."""
        samples = subsample_texels(texels, len(self.cameras))
        visible = (self._visible_texels(samples, view) for view in range(len(self.cameras)))
        images = (self._foreground(view) for view in range(len(self.cameras)))
        observations = collect_observations(samples, images, self.confidence, visible)
        if self.config.exposure:
            self.gains = estimate_gains(observations)
        if self.config.consistency:
            observations = observations.without_gains(self.gains)
            height, width = self.confidence.shape[1:]
            consistency_maps(observations, self.config, height, width, out=self.confidence)

    def _foreground(self, view: int) -> Tensor:
        """(H, W, 3) image of one view with its foreground extended; on demand, to save memory."""
        return extend_foreground(self.views.colour[view], self.masks[view])

    def _prepare_view(self, view: int) -> tuple[Tensor, Tensor]:
        """Image (H, W, 3) of one view with gain and blur undone, and its confidence (H, W)."""
        image, gain = self._foreground(view), self.gains[view]
        confidence = self.confidence[view] * saturation_confidence(image, gain)
        image = image / gain
        return sharpen_image(image) if self.config.sharpen else image, confidence

    def blend(self, texels: Texels, progress: Progress) -> tuple[Tensor, Tensor]:
        """Weighted mean colour (T, 3) over the views, and its certainty (T,) in 0..1."""
        count = len(texels.index)
        total, sums = torch.zeros(count), torch.zeros(count, 3)
        indices = torch.arange(count).split(TEXELS_PER_CHUNK)
        chunks = [(chunk, texels.select(chunk)) for chunk in indices]
        for view in progress.track(range(len(self.cameras)), STAGE, len(self.cameras)):
            image, confidence = self._prepare_view(view)
            for chunk, some in chunks:
                progress.check(STAGE)
                index, weights, colour = self._sample_view(view, image, confidence, some)
                total.index_add_(0, chunk[index], weights)
                sums.index_add_(0, chunk[index], weights[:, None] * colour)
        colour = sums / total.clamp_min(1e-9)[:, None]
        return colour.clamp(0.0, 1.0), (total / _FULL_WEIGHT).clamp(0.0, 1.0)

    def _sample_view(
        self, view: int, image: Tensor, confidence: Tensor, texels: Texels
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Indices (S,), weights (S,) and colours (S, 3) of the texels that one view observes."""
        visible = self._visible_texels(texels, view)
        weights = sample_image(confidence[..., None], visible.pixels)[:, 0]
        weights = weights * visible.cosine**_ANGLE_POWER
        kept = torch.nonzero(weights)[:, 0]
        return visible.index[kept], weights[kept], sample_image(image, visible.pixels[kept])

    def _visible_texels(self, texels: Texels, view: int) -> VisiblePoints:
        camera, min_cosine = self.cameras[view], self.config.min_cosine
        return visible_points(self.caster, texels.position, texels.normal, camera, min_cosine)

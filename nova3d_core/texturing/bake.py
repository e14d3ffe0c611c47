"""Views onto a mesh: each texel takes its colour from the images that see it well and agree."""

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
from .observations import subsample_texels, collect_observations
from .texels import Texels, rasterise_texels
from .view_images import sharpen_image, extend_foreground
from .visibility import VisiblePoints, boundary_weight, visible_points

STAGE = "baking"
TEXELS_PER_CHUNK = 1 << 18
_ANGLE_POWER = 6.0
"""The weight of a view is the cosine between surface normal and viewing direction, to this
power."""
_BOUNDARY_PX = 2.0
"""The weight of a view ramps up over this distance from silhouettes and depth discontinuities."""
_FULL_WEIGHT = 0.02
"""A texel whose weights add up to this needs no help from its neighbours."""


@dataclass(frozen=True, eq=False)
class BakeResult:
    """A textured mesh, and which part of its texture the views have seen."""

    mesh: Mesh
    """The mesh with its texture."""
    coverage: Tensor
    """(size, size) in 0..1: 1 where views have seen the texel, 0 where it was filled."""
    gains: Tensor
    """(V, 3) what each view's channels had been multiplied by; the texture has it undone."""


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
        views: V views; with masks, what lies outside them never reaches the texture.
        config: texture size and weights.
        progress: told about each view.
        conflict: (V, H, W) in 0..1, 1 where a pixel is known to contradict the other views: it
            does not count.

    Raises:
        InputError: the mesh has no uv, or the conflict maps do not fit the views.
        StageError: no view sees any of it.
    """
    config = config or BakeConfig()
    mesh, views = mesh.to("cpu"), views.to("cpu")
    if conflict is not None:
        conflict = _checked(conflict.detach().float().cpu(), views)
    if mesh.normals is None:
        mesh = mesh.with_smooth_normals()
    texels = rasterise_texels(mesh, config.texture_px)
    baking = _Baking(mesh, views, config, conflict)
    if config.exposure or config.consistency:
        progress.check(STAGE)
        baking.compare_views(texels)
    colour, seen = baking.blend(texels, progress)
    if not bool(seen.any()):
        raise StageError(
            STAGE,
            "no view sees any part of the mesh.",
            "Check that the mesh lies in the world of the cameras, and that the masks hold it.",
        )
    colour = fill_unobserved(mesh, texels, colour, seen)
    coverage = torch.zeros(config.texture_px**2)
    coverage[texels.index] = seen
    texture = pad_charts(texels, colour).clamp(0.0, 1.0)
    return BakeResult(
        replace(mesh, texture=texture, vertex_colours=None),
        coverage.reshape(config.texture_px, config.texture_px),
        baking.gains,
    )


def _checked(conflict: Tensor, views: Views) -> Tensor:
    count, height, width = views.colour.shape[:3]
    check_shape("conflict", conflict, "V H W", V=count, H=height, W=width)
    check_finite("conflict", conflict)
    check_range("conflict", conflict, 0.0, 1.0)
    return conflict


class _Baking:
    """One run: what each pixel counts, a survey of where the views differ, then the blend."""

    def __init__(self, mesh: Mesh, views: Views, config: BakeConfig, conflict: Tensor | None):
        self.cameras, self.config = views.cameras, config
        self.caster = RayCaster.of(mesh)
        masks = views.masks
        if masks is None:
            masks = torch.ones(views.colour.shape[:3])
        self.views, self.masks = views, masks
        self.trust = torch.zeros_like(masks)
        """(V, H, W) in 0..1: how much a pixel counts."""
        for view, mask in enumerate(masks):
            self.trust[view] = boundary_weight(self.caster, self.cameras[view], mask, _BOUNDARY_PX)
        self.gains = torch.ones(len(views), 3)
        for view in range(len(views)) if conflict is not None else ():
            self.trust[view] *= 1.0 - conflict[view]

    def compare_views(self, texels: Texels) -> None:
        """Finds the views' gains, and takes trust from pixels that contradict other views."""
        some = subsample_texels(texels, len(self.cameras))
        sights = (self._sight(some, view) for view in range(len(self.cameras)))
        images = (self._foreground(view) for view in range(len(self.cameras)))
        survey = collect_observations(some, images, self.trust, sights)
        if self.config.exposure:
            self.gains = estimate_gains(survey)
        if self.config.consistency:
            survey = survey.divided_by(self.gains)
            consistency_maps(survey, self.config, *self.trust.shape[1:], onto=self.trust)

    def _foreground(self, view: int) -> Tensor:
        """(H, W, 3) a view's image; made when it is needed, as all at once take much memory."""
        return extend_foreground(self.views.colour[view], self.masks[view])

    def _prepared(self, view: int) -> tuple[Tensor, Tensor]:
        """A view's image (H, W, 3) without its gain and blur, and its trust (H, W)."""
        image, gain = self._foreground(view), self.gains[view]
        trust = self.trust[view] * saturation_confidence(image, gain)
        image = image / gain
        return sharpen_image(image) if self.config.sharpen else image, trust

    def blend(self, texels: Texels, progress: Progress) -> tuple[Tensor, Tensor]:
        """Weighted mean colour (T, 3) over the views, and how sure it is (T,) in 0..1."""
        count = len(texels.index)
        total, sums = torch.zeros(count), torch.zeros(count, 3)
        places = torch.arange(count).split(TEXELS_PER_CHUNK)
        parts = [(part, texels.chosen(part)) for part in places]
        for view in progress.track(range(len(self.cameras)), STAGE, len(self.cameras)):
            image, trust = self._prepared(view)
            for part, some in parts:
                progress.check(STAGE)
                place, weights, colour = self._samples(view, image, trust, some)
                total.index_add_(0, part[place], weights)
                sums.index_add_(0, part[place], weights[:, None] * colour)
        colour = sums / total.clamp_min(1e-9)[:, None]
        return colour.clamp(0.0, 1.0), (total / _FULL_WEIGHT).clamp(0.0, 1.0)

    def _samples(
        self, view: int, image: Tensor, trust: Tensor, texels: Texels
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Which of the texels (S,) a view sees, with what weight (S,), in what colour (S, 3)."""
        sight = self._sight(texels, view)
        weights = sample_image(trust[..., None], sight.pixels)[:, 0]
        weights = weights * sight.cosine**_ANGLE_POWER
        kept = torch.nonzero(weights)[:, 0]
        return sight.place[kept], weights[kept], sample_image(image, sight.pixels[kept])

    def _sight(self, texels: Texels, view: int) -> VisiblePoints:
        camera, flattest = self.cameras[view], self.config.min_cosine
        return visible_points(self.caster, texels.position, texels.normal, camera, flattest)

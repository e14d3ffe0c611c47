"""Views onto a mesh: each texel takes its colour from the pictures that see it well and agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checks import check_finite, check_range, check_shape
from ..errors import StageError
from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..rendering.raycast import RayCaster
from ..views import Views
from .agreement import agreement_maps
from .config import BakeConfig
from .exposure import estimate_gains
from .fill import fill_unseen, pad_charts
from .pictures import sharpened, without_background
from .sampling import sample_picture
from .survey import survey_texels, take_survey
from .texels import Texels, texels_of
from .visibility import Sight, edge_fade, sight_of

STAGE = "baking"
_SURE = 0.02
"""A texel whose weights add up to this needs no help from its neighbours."""


@dataclass(frozen=True, eq=False)
class Baked:
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
) -> Baked:
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
    texels = texels_of(mesh, config.texture_px)
    colour, seen, gains = _Baking(mesh, texels, views, config, progress, conflict).run()
    if not bool(seen.any()):
        raise StageError(
            STAGE,
            "no view sees any part of the mesh.",
            "Check that the mesh lies in the world of the cameras, and that the masks hold it.",
        )
    colour = fill_unseen(mesh, texels, colour, seen)
    coverage = torch.zeros(config.texture_px**2)
    coverage[texels.index] = seen
    texture = pad_charts(texels, colour).clamp(0.0, 1.0)
    return Baked(
        replace(mesh, texture=texture, vertex_colours=None),
        coverage.reshape(config.texture_px, config.texture_px),
        gains,
    )


def _checked(conflict: Tensor, views: Views) -> Tensor:
    count, height, width = views.colour.shape[:3]
    check_shape("conflict", conflict, "V H W", V=count, H=height, W=width)
    check_finite("conflict", conflict)
    check_range("conflict", conflict, 0.0, 1.0)
    return conflict


class _Baking:
    """One run: first a survey of where the views differ, then the blend."""

    def __init__(
        self,
        mesh: Mesh,
        texels: Texels,
        views: Views,
        config: BakeConfig,
        progress: Progress,
        conflict: Tensor | None,
    ):
        self.mesh, self.texels, self.views, self.config = mesh, texels, views, config
        self.caster = RayCaster(mesh.vertices.numpy(), mesh.faces.numpy())
        self.conflict = conflict
        self.progress = progress
        self.surveys = config.exposure or config.agreement

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        """Colours (T, 3), how sure they are (T,) in 0..1, and the views' gains (V, 3)."""
        views, config = self.views, self.config
        masks = views.masks
        if masks is None:
            masks = torch.ones(views.colour.shape[:3])
        trust = torch.stack(
            [
                edge_fade(self.caster, views.cameras[view], masks[view], config.edge_px)
                for view in range(len(views))
            ]
        )
        if self.conflict is not None:
            trust = trust * (1.0 - self.conflict)
        pictures = torch.stack(
            [without_background(*pair) for pair in zip(views.colour, masks, strict=True)]
        )
        gains = torch.ones(len(views), 3)
        steps = self.progress.track(range(len(views)), STAGE, len(views))
        if self.surveys:
            some = survey_texels(self.texels, len(views))
            survey = take_survey(some, pictures, trust, self._sights(some))
            if config.exposure:
                gains = estimate_gains(survey)
                pictures = pictures / gains[:, None, None]
            if config.agreement:
                maps = agreement_maps(survey.divided_by(gains), config, *trust.shape[1:])
                trust = trust * maps
        if config.sharpen:
            pictures = sharpened(pictures)
        return *self._blend(pictures, trust), gains

    def _sights(self, texels: Texels) -> Iterator[Sight]:
        for view in range(len(self.views)):
            yield sight_of(
                self.mesh, self.caster, texels, self.views.cameras[view], self.config.min_cosine
            )

    def _blend(self, pictures: Tensor, trust: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted mean colour (T, 3) over the views, and how sure it is (T,) in 0..1."""
        total = torch.zeros(len(self.texels.index))
        sums = torch.zeros(len(self.texels.index), 3)
        sights = self.progress.track(self._sights(self.texels), STAGE, len(self.views))
        for view, sight in enumerate(sights):
            weights = sample_picture(trust[view][..., None], sight.pixels)[:, 0]
            weights = weights * sight.cosine**self.config.angle_power
            kept = torch.nonzero(weights)[:, 0]
            some, weights = sight.texel[kept], weights[kept]
            colour = sample_picture(pictures[view], sight.pixels[kept])
            total.index_add_(0, some, weights)
            sums.index_add_(0, some, weights[:, None] * colour)
        colour = sums / total.clamp_min(1e-9)[:, None]
        return colour.clamp(0.0, 1.0), (total / _SURE).clamp(0.0, 1.0)

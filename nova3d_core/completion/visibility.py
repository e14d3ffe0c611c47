"""Which texels no reference view has seen, with occlusion (SV3D, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..progress import SILENT, Progress
from ..rendering.raycast import RayCaster
from ..texturing.texels import Texels
from ..texturing.visibility import visible_points

STAGE = "observing"
SEEN_COSINE = 0.5
"""Cosine between normal and viewing direction from which a texel counts as completely seen."""
TEXELS_PER_CHUNK = 1 << 18
"""Between two checks for a cancel."""


def best_cosines(
    caster: RayCaster, texels: Texels, cameras: Cameras, progress: Progress = SILENT
) -> Tensor:
    """(T,) largest cosine between normal and viewing direction over the cameras that see a texel.

    A camera sees a texel that is inside its image, faces it and is not occluded; 0 if none does.
    """
    best = torch.zeros(len(texels.index))
    chunks = torch.arange(len(best)).split(TEXELS_PER_CHUNK)
    for view in progress.track(range(len(cameras)), STAGE, len(cameras)):
        for chunk in chunks:
            progress.check(STAGE)
            points = texels.position[chunk], texels.normal[chunk]
            visible = visible_points(caster, *points, cameras[view], min_cosine=0.0)
            index = chunk[visible.index]
            best[index] = torch.maximum(best[index], visible.cosine)
    return best


def unseen_weight(cosine: Tensor) -> Tensor:
    """M = 1 - smoothstep(c; 0, 0.5) of the best cosines c: 1 where unseen, 0 where clearly seen.

    The paper prints 3 - 2 x in place of 3 - 2 x' of the smoothstep.
    """
    x = (cosine / SEEN_COSINE).clamp(0.0, 1.0)
    return 1.0 - x * x * (3.0 - 2.0 * x)

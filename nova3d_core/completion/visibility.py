"""Which texels no reference view has seen, with occlusion (SV3D, section 4)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..rendering.raycast import RayCaster
from ..texturing.texels import Texels
from ..texturing.visibility import visible_points

STAGE = "observing"
SEEN_COSINE = 0.5
"""Cosine between normal and viewing direction from which a texel counts as completely seen."""
TEXELS_PER_CHUNK = 1 << 18
"""Between two checks for a cancel."""
ON_EDGE = 1e-3
"""A texel centre with a smaller barycentric weight may be inside both faces at an edge."""


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


def overlapping_texels(mesh: Mesh, texels: Texels, progress: Progress = SILENT) -> Tensor:
    """(T,) bool: whether several parts of a surface have a texel in common (overlapping UVs).

    Each face gets a height of its own above the texture: seen from above and from below, texels
    that belong to one face show the same one.

    Args:
        mesh: with uv.
        texels: T texels of its texture.
        progress: checked for a cancel.
    """
    height, width = texels.size_px
    count = len(mesh.faces)
    corners = (mesh.uv * mesh.uv.new_tensor([width, height]))[mesh.faces].reshape(-1, 2)  # (3 F, 2)
    heights = torch.linspace(0.0, 1.0, count).repeat_interleave(3)[:, None]
    flat = torch.cat([corners, heights], dim=1)
    caster = RayCaster(flat.numpy(), torch.arange(3 * count).reshape(-1, 3).numpy())
    shared = torch.zeros(len(texels.index), dtype=torch.bool)
    for chunk in torch.arange(len(shared)).split(TEXELS_PER_CHUNK):
        progress.check(STAGE)
        index = texels.index[chunk]
        centres = torch.stack([index % width, index // width], dim=1).float() + 0.5
        faces, is_inner = [], np.ones(len(chunk), dtype=bool)
        for start, direction in ((2.0, -1.0), (-1.0, 1.0)):
            origins = torch.cat([centres, torch.full((len(chunk), 1), start)], dim=1).numpy()
            directions = np.broadcast_to(np.float32([0.0, 0.0, direction]), origins.shape)
            hits = caster.first_hits(origins, directions)
            faces.append(np.where(hits.hit, hits.face, -1))
            is_inner &= hits.hit & (hits.barycentric.min(axis=1) > ON_EDGE)
        first, second = (mesh.faces[torch.from_numpy(each).clamp_min(0)] for each in faces)
        are_neighbours = (first[:, :, None] == second[:, None]).flatten(1).any(dim=1)
        differ = torch.from_numpy((faces[0] != faces[1]) & (faces[0] >= 0) & (faces[1] >= 0))
        shared[chunk] = differ & (torch.from_numpy(is_inner) | ~are_neighbours)
    return shared

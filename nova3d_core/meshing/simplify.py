"""Fewer faces with the same shape."""

from __future__ import annotations

import logging
from importlib import util

import torch

from ..mesh import Mesh

logger = logging.getLogger(__name__)

_AGGRESSIVENESS = 3
"""Low: slower, but fewer sheets get pinched together."""


def simplify(mesh: Mesh, target_faces: int) -> Mesh:
    """Quadric edge collapse down to `target_faces`; attributes are dropped.

    Where fast-simplification has no wheel the mesh comes back as it is, with a warning.

    Args:
        mesh: a welded surface.
        target_faces: a mesh that has no more faces than this stays as it is.
    """
    if len(mesh.faces) <= target_faces:
        return Mesh(mesh.vertices, mesh.faces)
    if not util.find_spec("fast_simplification"):
        logger.warning("fast-simplification is not installed: the mesh keeps all its faces")
        return Mesh(mesh.vertices, mesh.faces)
    import fast_simplification

    vertices, faces = fast_simplification.simplify(
        mesh.vertices.numpy(),
        mesh.faces.int().numpy(),
        target_count=target_faces,
        agg=_AGGRESSIVENESS,
    )
    return Mesh(torch.from_numpy(vertices).float(), torch.from_numpy(faces).long())

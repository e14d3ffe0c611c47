"""Mesh simplification by quadric edge collapse."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from ..mesh import ZERO_ORIGIN, Mesh

logger = logging.getLogger(__name__)

_AGGRESSIVENESS = 3
"""Low values are slower, but pinch fewer sheets together."""


def simplify(mesh: Mesh, target_faces: int) -> Mesh:
    """Simplifies a mesh to `target_faces` by quadric edge collapse, on the CPU.

    Attributes are dropped. Without the package fast-simplification the mesh is returned
    unsimplified, with a warning.

    Args:
        mesh: a surface with merged vertices.
        target_faces: a mesh with at most this many faces is not simplified.
    """
    mesh = mesh.to("cpu")
    if len(mesh.faces) <= target_faces:
        return Mesh(mesh.vertices, mesh.faces, origin=mesh.origin)
    try:
        import fast_simplification
    except (ImportError, OSError) as error:
        logger.warning(
            "the mesh keeps its %d faces instead of %d because fast-simplification cannot be "
            "loaded (%s). Install it with: pip install fast-simplification",
            len(mesh.faces),
            target_faces,
            error,
        )
        return Mesh(mesh.vertices, mesh.faces, origin=mesh.origin)

    # the error bound is an absolute length: simplify in a unit cube, independent of world scale
    to_unit = replace(mesh, origin=ZERO_ORIGIN).normalising_matrix().double()
    unit = mesh.vertices.double() @ to_unit[:3, :3].T + to_unit[:3, 3]
    vertices, faces = fast_simplification.simplify(
        unit.numpy(), mesh.faces.int().numpy(), target_count=target_faces, agg=_AGGRESSIVENESS
    )
    back = torch.linalg.inv(to_unit)
    vertices = torch.from_numpy(vertices).double() @ back[:3, :3].T + back[:3, 3]
    if len(faces) > 1.1 * target_faces:
        logger.warning("the mesh keeps %d faces: fewer would distort its shape", len(faces))
    return Mesh(vertices.float(), torch.from_numpy(faces).long(), origin=mesh.origin)

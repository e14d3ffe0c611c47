"""Rays against triangles: Embree where it is installed, a plain numpy tree elsewhere.

Both answer the same question with the same result, so images do not depend on the platform.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from ..compute.parallel import parallel_map
from ..mesh import Mesh
from .bvh import TriangleTree

logger = logging.getLogger(__name__)

_RAYS_PER_CHUNK = 32_768

Backend = Literal["auto", "embree", "numpy"]


@dataclass(frozen=True, eq=False)
class Hits:
    """Where R rays first met the surface."""

    face: np.ndarray
    """(R,) int64 face index, -1 for a ray that met nothing."""
    distance: np.ndarray
    """(R,) float32 distance along the ray, infinite where nothing was met."""
    barycentric: np.ndarray
    """(R, 3) float32 weights of the face's corners, zero where nothing was met."""

    @property
    def hit(self) -> np.ndarray:
        """(R,) bool: which rays met the surface."""
        return self.face >= 0


class RayCaster:
    """A triangle soup prepared for rays.

    Args:
        vertices: (N, 3) float.
        faces: (F, 3) int.
        backend: "embree", "numpy", or "auto" for Embree where it is installed.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, backend: Backend = "auto"):
        if backend == "auto":
            backend = "embree" if _has_embree() else "numpy"
        self.backend = backend
        corners = np.ascontiguousarray(vertices, dtype=np.float32)[faces]  # (F, 3, 3)
        points = corners.reshape(-1, 3)
        self.longest_side = float(np.ptp(points, axis=0).max()) if len(points) else 0.0
        """Of the box around the faces, in world units."""
        if backend == "embree":
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore_scene import EmbreeScene

            self._scene = EmbreeScene(robust=True)
            TriangleMesh(self._scene, corners)
        else:
            self._scene = TriangleTree(corners)

    @classmethod
    def of(cls, mesh: Mesh, backend: Backend = "auto") -> RayCaster:
        """A mesh's faces prepared for rays."""
        return cls(mesh.vertices.numpy(), mesh.faces.numpy(), backend)

    def first_hits(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """First surface point along each ray, from either side.

        Args:
            origins: (R, 3) float.
            directions: (R, 3) float unit vectors.
        """
        origins, directions = _ray_array(origins), _ray_array(directions)
        if self.backend == "numpy":
            face, distance, u, v = self._scene.first_hits(origins, directions)
        else:
            face, distance, u, v = self._embree_hits(origins, directions)
        missed = face < 0
        barycentric = np.stack([1.0 - u - v, u, v], axis=1)
        barycentric[missed] = 0.0
        return Hits(face, np.where(missed, np.inf, distance).astype(np.float32), barycentric)

    def _embree_hits(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, ...]:
        """(R,) face, distance, u and v; in parts, as Embree takes one core for a call."""

        def hits(part: slice) -> dict[str, np.ndarray]:
            return self._scene.run(origins[part], directions[part], output=True)

        begins = range(0, max(len(origins), 1), _RAYS_PER_CHUNK)
        parts = [slice(begin, begin + _RAYS_PER_CHUNK) for begin in begins]
        answers = list(parallel_map(hits, parts))
        names = ("primID", "tfar", "u", "v")
        face, *rest = (np.concatenate([answer[name] for answer in answers]) for name in names)
        return face.astype(np.int64), *rest

    def occluded(
        self, origins: np.ndarray, directions: np.ndarray, max_distance: np.ndarray
    ) -> np.ndarray:
        """Whether something lies within `max_distance` along each ray.

        Args:
            origins: (R, 3) float.
            directions: (R, 3) float unit vectors.
            max_distance: (R,) float.

        Returns:
            (R,) bool.
        """
        return self.first_hits(origins, directions).distance < max_distance


@cache
def _has_embree() -> bool:
    """Whether Embree loads; says once, where it does not, what that costs."""
    try:
        from embreex import mesh_construction, rtcore_scene  # noqa: F401
    except (ImportError, OSError) as error:
        missing = isinstance(error, ModuleNotFoundError)
        reason = "is not installed" if missing else f"cannot be loaded ({error})"
        logger.warning(
            "rays are cast with a numpy tree, 20 to 80 times slower than Embree, as the package "
            "embreex %s. Install it with: pip install embreex",
            reason,
        )
        return False
    return True


def _ray_array(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors, dtype=np.float32)

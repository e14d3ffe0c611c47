"""Ray casting with Embree, warp or a numpy BVH, whichever is installed, with the same results."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch

from ..compute.parallel import parallel_map
from ..mesh import Mesh
from .bvh import TriangleTree

logger = logging.getLogger(__name__)

_RAYS_PER_CHUNK = 32_768

Backend = Literal["auto", "embree", "warp", "numpy"]


@dataclass(frozen=True, eq=False)
class Hits:
    """First intersections of R rays with a surface."""

    face: np.ndarray
    """(R,) int64 face index, -1 for a miss."""
    distance: np.ndarray
    """(R,) float32 distance along the ray, infinite for a miss."""
    barycentric: np.ndarray
    """(R, 3) float32 weights of the face's corners, zero for a miss."""

    @property
    def hit(self) -> np.ndarray:
        """(R,) bool: whether each ray hits the surface."""
        return self.face >= 0


class RayCaster:
    """Acceleration structure for ray casting against triangles.

    Args:
        vertices: (N, 3) float.
        faces: (F, 3) int.
        backend: "embree", "warp", "numpy", or "auto" for the first of them that is available.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, backend: Backend = "auto"):
        if backend == "auto":
            backend = _best_backend()
        self.backend = backend
        corners = np.ascontiguousarray(vertices, dtype=np.float32)[faces]  # (F, 3, 3)
        points = corners.reshape(-1, 3)
        self.longest_side = float(np.ptp(points, axis=0).max()) if len(points) else 0.0
        """Longest side of the bounding box of the faces, in world units."""
        if not len(corners):
            self._scene = None
        elif backend == "embree":
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore_scene import EmbreeScene

            self._scene = EmbreeScene(robust=True)
            TriangleMesh(self._scene, corners)
        elif backend == "warp":
            self._scene = _warp_mesh(corners)
        else:
            self._scene = TriangleTree(corners)

    @classmethod
    def from_mesh(cls, mesh: Mesh, backend: Backend = "auto") -> RayCaster:
        """The acceleration structure of a mesh."""
        return cls(mesh.vertices.numpy(), mesh.faces.numpy(), backend)

    def first_hits(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """First intersection of each ray, with front or back faces.

        Args:
            origins: (R, 3) float.
            directions: (R, 3) float unit vectors.
        """
        origins, directions = _ray_array(origins), _ray_array(directions)
        if self._scene is None:
            count = len(origins)
            return Hits(
                np.full(count, -1, np.int64),
                np.full(count, np.inf, np.float32),
                np.zeros((count, 3), np.float32),
            )
        if self.backend == "numpy":
            face, distance, u, v = self._scene.first_hits(origins, directions)
        elif self.backend == "warp":
            face, distance, u, v = _warp_hits(self._scene, origins, directions)
        else:
            face, distance, u, v = self._embree_hits(origins, directions)
        missed = face < 0
        barycentric = np.stack([1.0 - u - v, u, v], axis=1)
        barycentric[missed] = 0.0
        return Hits(face, np.where(missed, np.inf, distance).astype(np.float32), barycentric)

    def _embree_hits(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, ...]:
        """(R,) face, distance, u and v; in parallel chunks, as an Embree call uses one core."""

        def hits(chunk: slice) -> dict[str, np.ndarray]:
            return self._scene.run(origins[chunk], directions[chunk], output=True)

        starts = range(0, max(len(origins), 1), _RAYS_PER_CHUNK)
        chunks = [slice(start, start + _RAYS_PER_CHUNK) for start in starts]
        results = list(parallel_map(hits, chunks))
        names = ("primID", "tfar", "u", "v")
        face, *rest = (np.concatenate([result[name] for result in results]) for name in names)
        return face.astype(np.int64), *rest

    def occluded(
        self, origins: np.ndarray, directions: np.ndarray, max_distance: np.ndarray
    ) -> np.ndarray:
        """Whether each ray hits the surface within `max_distance`.

        Args:
            origins: (R, 3) float.
            directions: (R, 3) float unit vectors.
            max_distance: (R,) float.

        Returns:
            (R,) bool.
        """
        return self.first_hits(origins, directions).distance < max_distance


@cache
def _best_backend() -> Backend:
    """The fastest backend that is available; logs once which one replaces Embree, and why."""
    try:
        from embreex import mesh_construction, rtcore_scene  # noqa: F401
    except (ImportError, OSError) as error:
        missing = isinstance(error, ModuleNotFoundError)
        reason = "is not installed" if missing else f"cannot be loaded ({error})"
    else:
        return "embree"
    from ..compute.warp_backend import kernel_error

    problem = kernel_error(torch.device("cpu"), _ray_kernels)
    if not problem:
        logger.info("rays are cast with warp, because the package embreex %s", reason)
        return "warp"
    logger.warning(
        "rays are cast in numpy, 20 to 80 times slower than with Embree, because the package "
        "embreex %s. Install it with: pip install embreex",
        reason,
    )
    return "numpy"


def _ray_kernels() -> tuple[Any, ...]:
    from . import ray_kernels

    return (ray_kernels.first_hits.module,)


def _warp_mesh(corners: np.ndarray) -> Any:
    """A `warp.Mesh` of the triangles (F, 3, 3) with its BVH."""
    from ..compute.warp_backend import as_warp, warp

    points = torch.from_numpy(corners).reshape(-1, 3)
    indices = torch.arange(len(points), dtype=torch.int32)
    return warp().Mesh(points=as_warp(points), indices=as_warp(indices))


def _warp_hits(
    mesh: Any, origins: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(R,) face, distance, u and v of each ray."""
    from ..compute.warp_backend import launch
    from . import ray_kernels

    face = torch.full((len(origins),), -1, dtype=torch.int32)  # (R,)
    hits = torch.zeros(len(origins), 3)  # (R, 3)
    arrays = [torch.from_numpy(origins), torch.from_numpy(directions), face, hits]
    launch(ray_kernels.first_hits, len(origins), [mesh.id, *arrays], torch.device("cpu"))
    distance, first, second = hits.numpy().T
    # warp weights the first two corners, Embree the second and third
    return face.numpy().astype(np.int64), distance, second, 1.0 - first - second


def _ray_array(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors, dtype=np.float32)

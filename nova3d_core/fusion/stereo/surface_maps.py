"""The present surface as the views see it, rendered by the field."""

from __future__ import annotations

from torch import Tensor

from ...cameras.cameras import Cameras
from ..fields.base import Field
from .patches import SurfaceMaps

_MIN_OPACITY = 0.6
"""Opacity above which a ray ends on the surface."""
_CHUNK_SIZE = 65_536


def render_surface_maps(
    field: Field,
    cameras: Cameras,
    view: Tensor,
    pixel: Tensor,
    origin: Tensor,
    direction: Tensor,
) -> SurfaceMaps:
    """Depth and normals of the field's surface at the pixels of N rays.

    Args:
        field: the present surface.
        cameras: V cameras, for the size of their images.
        view: (N,) index of each ray's view.
        pixel: (N, 2) x and y.
        origin: (N, 3)
        direction: (N, 3) unit.
    """
    depth_z = origin.new_zeros(len(cameras), cameras.height, cameras.width)
    normal = origin.new_zeros(*depth_z.shape, 3)
    axes = cameras.view_directions
    chunks = (part.split(_CHUNK_SIZE) for part in (view, pixel.long(), origin, direction))
    for views, pixels, origins, directions in zip(*chunks, strict=True):
        rendered = field.render(origins, directions, with_backward=False)
        length = rendered.gradient.norm(dim=1)
        hit = (rendered.opacity > _MIN_OPACITY) & (length > 1e-3)
        at = (views[hit], pixels[hit, 1], pixels[hit, 0])
        along_axis = (directions[hit] * axes[views[hit]]).sum(dim=1)
        depth_z[at] = rendered.depth[hit] / rendered.opacity[hit] * along_axis
        normal[at] = rendered.gradient[hit] / length[hit, None]
    return SurfaceMaps(depth_z, normal)

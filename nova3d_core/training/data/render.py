"""Rendering of training images: colours, normals and masks of all views of a mesh."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from ...cameras.cameras import Cameras, cameras_at, orbit_cameras
from ...cameras.orbits import preset_orbit
from ...errors import InputError
from ...mesh import Mesh
from ...rendering.shading import GREY
from ...views import frame_to_world
from ..procedural.builder import euler_rotation
from .config import ImageConfig, LightConfig
from .sampled_orbits import MAX_EXTENT, SampledOrbit

logger = logging.getLogger(__name__)

TEXELS_PER_PIXEL = 4
"""Textures are downsampled to at most this many times the size of the images."""


def render_object(
    mesh: Mesh,
    size_px: int = 64,
    views: int = 16,
    config: ImageConfig | None = None,
    closed: bool | None = None,
    orbit: SampledOrbit | None = None,
) -> dict[str, Any]:
    """Renders a mesh from all cameras of an orbit; view 0 looks from azimuth 0.

    Args:
        mesh: centred, its longest side 1.
        size_px: width and height.
        views: number of cameras, evenly spaced in azimuth.
        config: supersampling and light; overrides `size_px` and `views`.
        closed: whether the mesh is closed and consistently oriented, so that back faces can be
            culled; determined from the mesh if None.
        orbit: angles of the cameras, and the rotation of the mesh; elevation 0 and even azimuths if
            None.

    Returns:
        colour (V, H, W, 3) uint8 shaded, on white; normal (V, H, W, 3) uint8, 0.5 n + 0.5 in view
        0's frame, on white; mask (V, H, W) uint8, coverage, by which colour and normal are
        composited over white; elevation_deg, azimuth_deg (V,) float32.
    """
    config = config or ImageConfig(size_px=size_px, views=views)
    if orbit is None:
        cameras = _cameras(config)
        angles = {"elevation_deg": cameras.elevation_deg, "azimuth_deg": cameras.azimuth_deg}
    else:
        mesh = rotated(mesh, orbit.yaw_deg, orbit.pitch_deg)
        mesh = within_radius(mesh, config.orbit.max_radius)
        cameras = orbit_cameras_of(mesh, orbit, config)
        angles = {
            "elevation_deg": torch.from_numpy(orbit.elevations_deg).float(),
            "azimuth_deg": torch.from_numpy(orbit.azimuths_deg).float(),
        }
    if _warp_available():
        images = _rasterise(mesh, cameras, config, closed)
    else:
        images = render_by_ray_casting(mesh, cameras, config)
    return {**images, **angles}


def rotated(mesh: Mesh, yaw_deg: float, pitch_deg: float) -> Mesh:
    """The mesh rotated about +Y, then about +X, and normalised again."""
    if yaw_deg == 0.0 and pitch_deg == 0.0:
        return mesh
    matrix = torch.eye(4)
    rotation = euler_rotation(x_deg=pitch_deg) @ euler_rotation(y_deg=yaw_deg)
    matrix[:3, :3] = torch.from_numpy(rotation).float()
    return mesh.transformed(matrix).normalised()


def within_radius(mesh: Mesh, radius: float | None) -> Mesh:
    """The mesh scaled down about the origin until its vertices are within a radius."""
    largest = float(mesh.vertices.norm(dim=1).max())
    if radius is None or largest <= radius:
        return mesh
    matrix = torch.eye(4)
    matrix[:3, :3] *= radius / largest
    return mesh.transformed(matrix)


def orbit_cameras_of(mesh: Mesh, orbit: SampledOrbit, config: ImageConfig) -> Cameras:
    """The cameras of an orbit around a mesh, at the distance of the family's training."""
    size_px, kind = config.size_px, config.orbit
    rig = preset_orbit(kind.cameras, size_px, size_px).rig
    angles = orbit.azimuths_deg.tolist(), orbit.elevations_deg.tolist()
    if kind.fit_distance:
        rig = replace(rig, radius=fit_distance(mesh, cameras_at(*angles, rig), rig.radius))
    return cameras_at(*angles, rig)


def fit_distance(mesh: Mesh, cameras: Cameras, radius: float) -> float:
    """The smallest distance at which a mesh covers at most `MAX_EXTENT` of every image.

    A vertex (x, y, z) in a camera at distance r moves to (x, y, z + r' - r) at r', so it stays
    within the extent for r' >= r - z + 2 f max(|x|, |y|) / MAX_EXTENT.

    Args:
        mesh: centred.
        cameras: V square cameras that look at the origin.
        radius: their distance r.
    """
    pose = cameras.world_to_camera  # (V, 4, 4)
    points = mesh.vertices @ pose[:, :3, :3].transpose(1, 2) + pose[:, None, :3, 3]  # (V, N, 3)
    focal = cameras.intrinsics[0, 0, 0] / cameras.width
    sideways = points[..., :2].abs().amax(dim=-1)  # (V, N)
    return float((radius - points[..., 2] + 2.0 * focal * sideways / MAX_EXTENT).max())


@cache
def _warp_available() -> bool:
    """Whether warp runs on the CPU; logs the fallback once if it does not."""
    from ...compute.warp_backend import kernel_error

    problem = kernel_error(torch.device("cpu"), _raster_kernels)
    if problem:
        logger.warning(
            "training images are rendered by the slower ray caster: %s. Install warp with: pip "
            "install warp-lang",
            problem.rstrip("."),
        )
    return not problem


def _raster_kernels() -> tuple[Any, ...]:
    from . import raster_kernels

    return (raster_kernels.draw.module,)


@cache
def _cameras(config: ImageConfig) -> Cameras:
    rig = preset_orbit(config.orbit.cameras, config.size_px, config.size_px).rig
    return orbit_cameras(replace(rig, count=config.view_count))


def _rasterise(
    mesh: Mesh, cameras: Cameras, config: ImageConfig, closed: bool | None
) -> dict[str, Tensor]:
    """Renders by warp's kernels, on the calling thread."""
    from ...compute.warp_backend import warp

    wp = warp()
    from . import raster_kernels as kernels

    views, size = len(cameras), config.size_px
    samples = size * config.supersample
    raster_mesh = kernels.RasterMesh()
    if mesh.normals is None:
        mesh = _unshare_vertices(mesh)
    for name, value in _mesh_arrays(mesh, config).items():
        setattr(
            raster_mesh, name, wp.from_numpy(value[0], dtype=getattr(wp, value[1]), device="cpu")
        )
    raster_mesh.textured = int(mesh.texture is not None)
    raster_mesh.closed = int(is_closed(mesh) if closed is None else closed)
    light = kernels.Light()
    light.direction = wp.vec3(*light_direction(config.light))
    light.ambient, light.key = config.light.ambient, config.light.key
    points = _project_to_samples(mesh.vertices.numpy(), cameras, config.supersample)
    inverse_depth = np.zeros((views, samples, samples), np.float32)
    face = np.full((views, samples, samples), -1, np.int32)
    weights = np.zeros((views, samples, samples, 2), np.float32)
    buffers = [
        _as_warp_array(wp, inverse_depth),
        _as_warp_array(wp, face),
        _as_warp_array(wp, weights, wp.vec2),
    ]
    wp.launch(
        kernels.draw,
        dim=views,
        inputs=[_as_warp_array(wp, points, wp.vec3), raster_mesh, samples, *buffers],
        device="cpu",
    )
    out = {
        "colour": torch.zeros(views, size, size, 3, dtype=torch.uint8),
        "normal": torch.zeros(views, size, size, 3, dtype=torch.uint8),
        "mask": torch.zeros(views, size, size, dtype=torch.uint8),
    }
    to_front_view = frame_to_world(cameras, "front_view")[0].T
    wp.launch(
        kernels.resolve,
        dim=(views, size, size),
        inputs=[
            raster_mesh,
            light,
            wp.mat33(*to_front_view.reshape(-1).tolist()),
            config.supersample,
            *buffers[1:],
            *(wp.from_torch(each) for each in out.values()),
        ],
        device="cpu",
    )
    return out


def _as_warp_array(wp: Any, array: ndarray, dtype: Any = None) -> Any:
    """A contiguous numpy array as a warp array on the same memory."""
    kind = dtype or (wp.int32 if array.dtype == np.int32 else wp.float32)
    return wp.array(array, dtype=kind, device="cpu", copy=False)


def _mesh_arrays(mesh: Mesh, config: ImageConfig) -> dict[str, tuple[ndarray, str]]:
    """Arrays of the kernels' `RasterMesh`, with the names of their warp types."""
    count = len(mesh.vertices)
    empty2, empty3 = np.zeros((1, 2), np.float32), np.zeros((1, 3), np.float32)
    colours, texture = mesh.vertex_colours, empty3[None]
    if mesh.texture is not None:
        texture = downsample_texture(mesh.texture, TEXELS_PER_PIXEL * config.size_px).numpy()
    elif colours is None:
        colours = torch.full((count, 3), GREY)
    return {
        "faces": (mesh.faces.numpy().astype(np.int32), "vec3i"),
        "normals": (mesh.normals.numpy(), "vec3"),
        "colours": (empty3 if mesh.texture is not None else colours.numpy(), "vec3"),
        "uv": (empty2 if mesh.texture is None else mesh.uv.numpy(), "vec2"),
        "texture": (texture, "vec3"),
    }


def _project_to_samples(vertices: ndarray, cameras: Cameras, supersample: int) -> ndarray:
    """(V, N, 3) float32: x and y in samples, and 1 / depth."""
    if cameras.kind != "perspective":
        raise InputError("training images support perspective cameras only.")
    scaled = cameras.intrinsics.numpy().copy()  # (V, 3, 3)
    scaled[:, :2] *= supersample
    matrix = scaled @ cameras.world_to_camera.numpy()[:, :3]  # (V, 3, 4)
    points = vertices[None] @ matrix[:, :, :3].transpose(0, 2, 1) + matrix[:, None, :, 3]
    points[..., 2] = 1.0 / np.maximum(points[..., 2], 1e-3)
    points[..., :2] *= points[..., 2:]
    return np.ascontiguousarray(points, np.float32)


def _unshare_vertices(mesh: Mesh) -> Mesh:
    """The mesh with unshared vertices, which carry their face's normal."""
    corners = mesh.faces.reshape(-1)

    def per_corner(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[corners]

    return Mesh(
        mesh.vertices[corners],
        torch.arange(len(corners)).reshape(-1, 3),
        per_corner(mesh.uv),
        mesh.texture,
        mesh.face_normals.repeat_interleave(3, dim=0),
        per_corner(mesh.vertex_colours),
    )


def is_closed(mesh: Mesh) -> bool:
    """Whether the mesh is a closed, consistently oriented manifold."""
    from ...meshing.clean import is_closed_manifold

    return is_closed_manifold(mesh.welded())


def downsample_texture(texture: Tensor, max_px: int) -> Tensor:
    """Downsamples a texture (H, W, 3) by averaging until its longer side is at most `max_px`."""
    factor = -(-max(texture.shape[:2]) // max_px)
    if factor <= 1:
        return texture.contiguous()
    planes = texture.movedim(-1, 0)[None]
    small = torch.nn.functional.avg_pool2d(planes, factor, ceil_mode=True, count_include_pad=False)
    return small[0].movedim(0, -1).contiguous()


def light_direction(light: LightConfig) -> tuple[float, float, float]:
    """Unit vector towards the light."""
    azimuth, elevation = np.radians([light.azimuth_deg, light.elevation_deg])
    return (
        float(np.sin(azimuth) * np.cos(elevation)),
        float(np.sin(elevation)),
        float(np.cos(azimuth) * np.cos(elevation)),
    )


def render_by_ray_casting(mesh: Mesh, cameras: Cameras, config: ImageConfig) -> dict[str, Tensor]:
    """The same images by ray casting, without warp: slow reference implementation."""
    from ...rendering.config import RenderConfig
    from ...rendering.views import render_views

    views = render_views(mesh, cameras, RenderConfig(config.supersample)).views
    coverage = views.masks[..., None]
    normals = views.normals  # (V, H, W, 3) in the world frame
    to_light = torch.tensor(light_direction(config.light))
    shade = config.light.ambient + config.light.key * (0.5 + 0.5 * (normals @ to_light)[..., None])
    colour = ((views.colour - (1 - coverage)) * shade + (1 - coverage)).clamp(0, 1)
    in_front_view = views.with_normals_in("front_view").normals
    normal = ((0.5 + 0.5 * in_front_view) * coverage + (1 - coverage)).clamp(0, 1)
    return {
        name: (each * 255 + 0.5).to(torch.uint8)
        for name, each in (("colour", colour), ("normal", normal), ("mask", views.masks))
    }

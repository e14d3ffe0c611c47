"""A mesh in the world of a model's orbits, with what its reference views have not seen."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cameras.cameras import Cameras, cameras_at, cameras_from_orbit
from ..cameras.orbits import preset_orbit
from ..cameras.rotations import axis_angle_to_matrix
from ..conventions import encode_normals
from ..diffusion.families import Family
from ..diffusion.sampling.trajectory import CameraTrajectory, plan_trajectory
from ..errors import InputError
from ..mesh import Mesh
from ..progress import Progress
from ..rendering.raycast import RayCaster
from ..rendering.views import render_views
from ..texturing.fill import pad_charts
from ..texturing.surface_pixels import as_planes
from ..texturing.texels import Texels
from ..views import frame_to_world
from .orbits import MAX_ELEVATION_DEG, best_orbit
from .texture_renderer import TextureRenderer

OPTICS_TOLERANCE = 0.05
"""Relative difference of focal length and distance up to which a camera is that of the family."""


@dataclass(frozen=True, eq=False)
class OrbitViews:
    """The views of a mesh along one trajectory, in the network's order."""

    trajectory: CameraTrajectory
    renderer: TextureRenderer
    normals: Tensor | None
    """(V, S, S, 3) normal images on white, for families that generate normals."""

    def images(self, colour: Tensor) -> Tensor:
        """(D, V, S, S, 3) images of all domains, from renders (V, S, S, 3) of a texture."""
        return torch.stack([colour] if self.normals is None else [colour, self.normals])


@dataclass(frozen=True, eq=False)
class CompletionScene:
    """The mesh in the frame of a family's orbits, where the input view is at azimuth 0."""

    family: Family
    mesh: Mesh
    """With uv, texture and vertex normals, on the CPU."""
    caster: RayCaster
    texels: Texels
    """T texels of its texture."""
    unseen: Tensor
    """(T,) M in 0..1: 1 where no reference view has seen the texel."""
    elevation_deg: float
    """Elevation of the input view."""
    has_own_camera: bool
    """Whether the reference views are framed as the family's own."""

    def orbit(
        self, size_px: int, weights: Tensor, generator: torch.Generator, progress: Progress
    ) -> OrbitViews:
        """The views of a new orbit: a random one towards the weights, where the family allows it.

        Args:
            size_px: width and height of the views.
            weights: (T,) how much each texel has to be seen.
            generator: of the random numbers.
            progress: checked for a cancel.
        """
        trajectory = self._plan(size_px, weights, generator)
        cameras = trajectory.cameras
        renderer = TextureRenderer.of(self.mesh, self.caster, cameras, progress)
        normals = None
        if "normal" in self.family.domains:
            rendered = render_views(self.mesh, cameras, progress=progress).views
            input_camera = cameras[trajectory.input_view]
            to_world = frame_to_world(input_camera, "camera")[0]  # (3, 3)
            coverage = rendered.masks[..., None]
            on_white = encode_normals(rendered.normals @ to_world) * coverage + 1.0 - coverage
            normals = on_white.clamp(0.0, 1.0)
        return OrbitViews(trajectory, renderer, normals)

    def _plan(self, size_px: int, weights: Tensor, generator: torch.Generator) -> CameraTrajectory:
        family = self.family
        if not family.free_angles:
            return plan_trajectory(family, size_px, self.elevation_deg)
        azimuths, elevations = best_orbit(
            family.views, self.elevation_deg, self.texels.normal, weights, generator
        )
        rig = preset_orbit(family.orbit, size_px, size_px).rig
        cameras = cameras_at(azimuths.tolist(), elevations.tolist(), rig)
        return plan_trajectory(family, size_px, cameras=cameras)

    def planes(self, values: Tensor) -> Tensor:
        """(1, C, h, w) texture of values (T, C); padding copies the nearest texel."""
        return as_planes(pad_charts(self.texels, values))


def make_scene(
    mesh: Mesh, cameras: Cameras, family: Family, texels: Texels, unseen: Tensor
) -> CompletionScene:
    """Moves a mesh into the frame of a family's orbits.

    It is rotated about +Y so that the first reference camera, which sees the input image, is at
    azimuth 0. Unless that camera is one of the family's own orbit, the mesh is normalised as in
    training: centred, with its longest side 1.

    Args:
        mesh: with uv, texture and vertex normals, in the local frame of the cameras.
        cameras: of the reference views; the first sees the input image.
        family: of the model.
        texels: T texels of the texture, in the frame of the mesh.
        unseen: (T,) M of the texels.

    Raises:
        InputError: the first camera looks too steeply down or up for random orbits.
    """
    elevation_deg = float(cameras.elevation_deg[0])
    if family.free_angles and abs(elevation_deg) > MAX_ELEVATION_DEG:
        raise InputError(
            f"the first view is taken from an elevation of {elevation_deg:.0f} degrees, expected "
            f"-{MAX_ELEVATION_DEG:.0f} to {MAX_ELEVATION_DEG:.0f}.",
            "Put a view from the side first.",
        )
    azimuth_rad = math.radians(float(cameras.azimuth_deg[0]))
    matrix = torch.eye(4)
    matrix[:3, :3] = axis_angle_to_matrix(torch.tensor([[0.0, -azimuth_rad, 0.0]]))[0]
    rotation = matrix[:3, :3]
    moved = mesh.transformed(matrix)
    is_own = _has_own_camera(cameras, family)
    if not is_own:
        moved = moved.transformed(moved.normalising_matrix())
    texels = replace(texels, normal=texels.normal @ rotation.T)
    return CompletionScene(
        family, moved, RayCaster.from_mesh(moved), texels, unseen, elevation_deg, is_own
    )


def _has_own_camera(cameras: Cameras, family: Family) -> bool:
    """Whether the first camera has the projection and the distance of a family's orbit."""
    own = cameras_from_orbit(preset_orbit(family.orbit, cameras.width, cameras.height))
    if own.kind != cameras.kind:
        return False
    focal, own_focal = (float(each.intrinsics[0, 0, 0]) for each in (cameras, own))
    distance, own_distance = (float(each.positions[0].norm()) for each in (cameras, own))
    same_focal = abs(focal / own_focal - 1.0) <= OPTICS_TOLERANCE
    if cameras.kind == "orthographic":
        return same_focal
    return same_focal and abs(distance / own_distance - 1.0) <= OPTICS_TOLERANCE

"""PixelNeRF conditioner (Yu et al. 2021), as V3D uses it for scenes: features of target views.

Points on the ray of each target pixel are projected into the source images. Their features,
averaged over the sources, are blended along the ray with softmax weights, not by alpha compositing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ...checks import check_shape
from ...errors import InputError
from .pixelnerf_config import PixelNerfConfig
from .resunet import MIN_SIDE_PX, STRIDE, ResUNet

POSITION_OCTAVES = 6
"""Frequencies pi 2^k, k = 0 to 5, of the positional encoding."""
POSITION_CHANNELS = 3 + 2 * 3 * POSITION_OCTAVES
MIN_DEPTH = 1e-3
"""Smallest depth of a projected point: those behind a camera are far outside its image."""
VARIANCE_EPS = 1e-6
"""Added to variances: the gradient of a standard deviation of 0 is not defined."""


@dataclass(frozen=True, eq=False)
class ViewPoses:
    """Cameras of B scenes with V views each, as tensors of the network."""

    world_to_camera: Tensor
    """(B, V, 4, 4) rigid transforms, OpenCV axes, in normalised units."""
    intrinsics: Tensor
    """(B, V, 3, 3) over the image's width and height: the principal point is about (0.5, 0.5)."""

    def __getitem__(self, index: tuple | slice | int) -> ViewPoses:
        return ViewPoses(*(getattr(self, each.name)[index] for each in fields(self)))

    def joined(self, other: ViewPoses) -> ViewPoses:
        """These views of each scene, then others."""
        return ViewPoses(
            torch.cat([self.world_to_camera, other.world_to_camera], dim=1),
            torch.cat([self.intrinsics, other.intrinsics], dim=1),
        )

    def to(self, device: torch.device | str) -> ViewPoses:
        """The same on a device."""
        return ViewPoses(self.world_to_camera.to(device), self.intrinsics.to(device))


def target_rays(poses: ViewPoses, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rays through the pixel centres of B x V images.

    Returns:
        Origins (B, V, 1, 3) and unit directions (B, V, h w, 3) in the world.
    """
    intrinsics, pose = poses.intrinsics, poses.world_to_camera
    rows = (torch.arange(height, device=pose.device, dtype=pose.dtype) + 0.5) / height
    columns = (torch.arange(width, device=pose.device, dtype=pose.dtype) + 0.5) / width
    v, u = torch.meshgrid(rows, columns, indexing="ij")  # (h, w)
    pixels = torch.stack([u, v], dim=-1).flatten(0, 1)  # (h w, 2)
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)[..., None, :]
    centre = intrinsics[..., None, :2, 2]  # (B, V, 1, 2)
    plane = (pixels - centre) / focal  # (B, V, h w, 2)
    directions = torch.cat([plane, torch.ones_like(plane[..., :1])], dim=-1)
    rotation = pose[..., :3, :3]  # world to camera
    directions = functional.normalize(directions @ rotation, dim=-1)
    origins = -(pose[..., None, :3, 3] @ rotation)  # (B, V, 1, 3)
    return origins, directions


def ray_intervals(
    origins: Tensor, directions: Tensor, config: PixelNerfConfig
) -> tuple[Tensor, Tensor]:
    """Start and end (..., 1) of the sampled part of each ray, in depth along unit directions.

    Rays that miss the cube are sampled within 1 of their closest point to its centre.
    """
    if config.depths == "disparity":
        start = torch.full_like(directions[..., :1], config.near)
        return start, torch.full_like(start, config.far)
    safe = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    slabs = torch.stack([(-1.0 - origins) / safe, (1.0 - origins) / safe])
    entry = slabs.amin(dim=0).amax(dim=-1, keepdim=True).clamp_min(0.0)
    exit_ = slabs.amax(dim=0).amin(dim=-1, keepdim=True)
    closest = -(origins * directions).sum(dim=-1, keepdim=True)
    hits = exit_ > entry
    start = torch.where(hits, entry, (closest - 1.0).clamp_min(0.0))
    return start, torch.where(hits, exit_, (closest + 1.0).clamp_min(1.0))


def sample_depths(start: Tensor, end: Tensor, offsets: Tensor, config: PixelNerfConfig) -> Tensor:
    """Depths (..., N) of N points on each ray, one in each of N equal parts of its interval.

    Args:
        start, end: (..., 1) the interval.
        offsets: (..., N) or (N,) position within each part, 0 to 1.
        config: whether the parts are equal in depth or in inverse depth.
    """
    count = config.samples_per_ray
    steps = (torch.arange(count, device=start.device, dtype=start.dtype) + offsets) / count
    if config.depths == "disparity":
        return 1.0 / ((1.0 - steps) / start + steps / end)
    return start + (end - start) * steps


def project_points(points: Tensor, sources: ViewPoses) -> Tensor:
    """Image positions (B, S, V, R, N, 2) of points (B, V, R, N, 3) in the sources, 0 to 1 inside.

    Points behind a source camera are far outside its image.
    """
    pose = sources.world_to_camera[:, :, None, None]  # (B, S, 1, 1, 4, 4)
    in_camera = points[:, None] @ pose[..., :3, :3].transpose(-1, -2) + pose[..., None, :3, 3]
    plane = in_camera[..., :2] / in_camera[..., 2:].clamp_min(MIN_DEPTH)
    intrinsics = sources.intrinsics[:, :, None, None]  # (B, S, 1, 1, 3, 3)
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)[..., None, :]
    return plane * focal + intrinsics[..., None, :2, 2]


def sample_features(maps: Tensor, positions: Tensor) -> Tensor:
    """Bilinear features of image positions; outside an image, those of its border.

    Args:
        maps: (B, S, C, H, W).
        positions: (B, S, V, R, N, 2) in 0..1, where 0 and 1 are the outer edges of the image.

    Returns:
        (B, S, V, R, N, C).
    """
    batch, count = positions.shape[:2]
    rays = positions.flatten(2, 3).flatten(0, 1)  # (B S, V R, N, 2)
    sampled = functional.grid_sample(
        maps.flatten(0, 1),
        (rays * 2.0 - 1.0).to(maps.dtype),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )  # (B S, C, V R, N)
    sampled = sampled.movedim(1, -1).unflatten(0, (batch, count))
    return sampled.unflatten(2, positions.shape[2:4])


def encode_positions(points: Tensor) -> Tensor:
    """Points (..., 3) with their sines and cosines at 6 octaves: (..., 39)."""
    octaves = math.pi * 2.0 ** torch.arange(POSITION_OCTAVES, device=points.device)
    angles = (points[..., None, :] * octaves[:, None]).flatten(-2)  # (..., 18)
    return torch.cat([points, angles.sin(), angles.cos()], dim=-1)


def _mlp(in_channels: int, hidden: int, out_channels: int) -> nn.Sequential:
    """Two hidden layers with ReLU, initialised so that activations keep their variance."""
    layers = nn.Sequential(
        nn.Linear(in_channels, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, out_channels),
    )
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return layers


class PixelNerf(nn.Module):
    """Renders features and colours of target views from posed source images.

    Args:
        config: widths, depths and sampling.

    Attributes:
        gradient_checkpointing: recompute the points of each target view in the backward pass.
    """

    def __init__(self, config: PixelNerfConfig | None = None):
        super().__init__()
        self.config = config = config or PixelNerfConfig()
        self.gradient_checkpointing = False
        self.encoder = ResUNet(config.encoder_channels, config.encoder_blocks)
        width = self.map_channels * (2 if config.use_std else 1)
        width += POSITION_CHANNELS if config.use_position else 0
        hidden = config.hidden_channels
        self.point_mlp = _mlp(width, hidden, hidden + 1)
        self.ray_mlp = _mlp(hidden, hidden, 3 + config.feature_channels)

    @property
    def map_channels(self) -> int:
        """Channels of the feature maps of sources."""
        return self.config.encoder_channels + (3 if self.config.use_colour else 0)

    def forward(
        self,
        images: Tensor,
        sources: ViewPoses,
        targets: ViewPoses,
        height: int,
        width: int,
        jitter: Sequence[torch.Generator] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encodes the sources and renders the targets; see `encode` and `render`."""
        return self.render(self.encode(images), sources, targets, height, width, jitter)

    def encode(self, images: Tensor) -> Tensor:
        """Feature maps (B, S, C, H/4, W/4) of source images (B, S, 3, H, W) in -1..1."""
        sizes = check_shape("the source images", images, "B S 3 H W")
        if min(sizes["H"], sizes["W"]) < MIN_SIDE_PX or sizes["H"] % STRIDE or sizes["W"] % STRIDE:
            raise InputError(
                f"a source image has {sizes['W']}x{sizes['H']} pixels, expected multiples of "
                f"{STRIDE} and at least {MIN_SIDE_PX}."
            )
        flat = images.flatten(0, 1)
        maps = self.encoder(flat)
        if self.config.use_colour:
            maps = torch.cat([maps, functional.avg_pool2d(flat, STRIDE)], dim=1)
        return maps.unflatten(0, images.shape[:2])

    def render(
        self,
        maps: Tensor,
        sources: ViewPoses,
        targets: ViewPoses,
        height: int,
        width: int,
        jitter: Sequence[torch.Generator] | None = None,
        max_rays: int | None = None,
        before_chunk: Callable[[], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Colours and features of target views.

        Args:
            maps: (B, S, C, H, W) from `encode`.
            sources: of the maps, (B, S).
            targets: (B, V).
            height: h, rows of the latents.
            width: w, columns of the latents.
            jitter: a generator per scene, on the CPU, of the points' random positions in training;
                their parts' midpoints if None.
            max_rays: rays of a view that are rendered together; all if None.
            before_chunk: called before each of these chunks; an exception in it ends the rendering.

        Returns:
            Colours (B, V, 3, h, w) in 0..1 and features (B, V, F, h, w).
        """
        origins, directions = target_rays(targets, height, width)
        views = []
        for view in range(directions.shape[1]):
            chunks = []
            for part in directions[:, view : view + 1].split(max_rays or height * width, dim=2):
                if before_chunk is not None:
                    before_chunk()
                rays = origins[:, view : view + 1], part, self._offsets(part, jitter)
                chunks.append(self._render_chunk(maps, sources, rays))
            views.append(torch.cat(chunks, dim=2))
        out = torch.cat(views, dim=1)  # (B, V, h w, 3 + F)
        out = out.movedim(-1, 2).unflatten(-1, (height, width))
        return out[:, :, :3].sigmoid(), out[:, :, 3:]

    def _render_chunk(
        self, maps: Tensor, sources: ViewPoses, rays: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """`render_rays`, recomputed in the backward pass with gradient checkpointing."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(self.render_rays, maps, sources, *rays, use_reentrant=False)
        return self.render_rays(maps, sources, *rays)

    def bytes_per_ray(self, sources: int) -> int:
        """Peak activations of a ray in `render_rays` without gradients, for S sources, float32."""
        config = self.config
        channels = self.map_channels
        point = 2 * sources * channels + self.point_mlp[0].in_features + 3 * config.hidden_channels
        return 4 * config.samples_per_ray * (point + 10 * sources)

    def _offsets(self, directions: Tensor, jitter: Sequence[torch.Generator] | None) -> Tensor:
        """Position (..., N) of each point within its part of the ray."""
        count = self.config.samples_per_ray
        if jitter is None:
            return torch.full((count,), 0.5, device=directions.device)
        shape = (*directions.shape[1:-1], count)
        drawn = [torch.rand(shape, generator=generator) for generator in jitter]
        return torch.stack(drawn).to(directions.device)

    def render_rays(
        self, maps: Tensor, sources: ViewPoses, origins: Tensor, directions: Tensor, offsets: Tensor
    ) -> Tensor:
        """Raw colours and features (B, V, R, 3 + F) of R rays per target view.

        Args:
            maps: (B, S, C, H, W).
            sources: (B, S).
            origins: (B, V, 1, 3).
            directions: (B, V, R, 3) unit vectors.
            offsets: (B, V, R, N), or (N,).
        """
        config = self.config
        with torch.no_grad():
            interval = ray_intervals(origins, directions, config)
            depths = sample_depths(*interval, offsets, config)  # (B, V, R, N)
            points = origins[..., None, :] + directions[..., None, :] * depths[..., None]
            positions = project_points(points, sources)
        sampled = sample_features(maps, positions)  # (B, S, V, R, N, C)
        mean = sampled.mean(dim=1)
        features = [mean]
        if config.use_std:
            features.append(_std(sampled, mean))
        if config.use_position:
            features.append(encode_positions(points).to(maps.dtype))
        out = self.point_mlp(torch.cat(features, dim=-1))  # (B, V, R, N, hidden + 1)
        weights = out[..., -1:].softmax(dim=-2)
        return self.ray_mlp((weights * out[..., :-1]).sum(dim=-2))


def _std(sampled: Tensor, mean: Tensor) -> Tensor:
    """Standard deviation (B, ...) over the sources of (B, S, ...); 0 for one source."""
    count = sampled.shape[1]
    if count == 1:
        return torch.zeros_like(mean)
    deviations = sampled - mean[:, None]  # torch.var over this axis is slow on CPUs
    return (deviations.square().sum(dim=1) / (count - 1) + VARIANCE_EPS).sqrt()

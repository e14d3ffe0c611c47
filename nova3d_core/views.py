"""Views: images of one object with their cameras, masks and normals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .cameras.cameras import Cameras, keep_view_axis
from .checks import check_finite, check_range, check_shape, check_unit_or_zero
from .conventions import NORMAL_FRAMES, OPENGL_FROM_OPENCV, NormalFrame
from .errors import InputError


@dataclass(frozen=True, eq=False)
class Views:
    """V images with their cameras, and optional masks and normals, converted to float32.

    Raises:
        InputError: shapes do not match, values are NaN or out of range, or normals are not unit
            vectors or have no frame.
    """

    cameras: Cameras
    """V cameras."""
    colour: Tensor
    """(V, H, W, 3) float32 sRGB in 0..1, on white."""
    masks: Tensor | None = None
    """(V, H, W) float32 in 0..1, 1 on the object; silhouette pixels have fractional coverage."""
    normals: Tensor | None = None
    """(V, H, W, 3) unit vectors in `normal_frame`, zero in the background."""
    normal_frame: NormalFrame | None = None
    """Frame of the normals: world, camera or front_view. Required with normals."""

    def __post_init__(self):
        object.__setattr__(self, "cameras", self.cameras.float())
        for name in ("colour", "masks", "normals"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, getattr(self, name).float())
        size = {"V": len(self.cameras), "H": self.cameras.height, "W": self.cameras.width}
        check_shape("colour", self.colour, "V H W 3", **size)
        check_finite("colour", self.colour)
        check_range("colour", self.colour, 0.0, 1.0)
        if self.masks is not None:
            check_shape("masks", self.masks, "V H W", **size)
            check_finite("masks", self.masks)
            check_range("masks", self.masks, 0.0, 1.0)
        if self.normals is None:
            return
        check_shape("normals", self.normals, "V H W 3", **size)
        check_finite("normals", self.normals)
        if self.normal_frame not in NORMAL_FRAMES:
            raise InputError(
                f"normals are given without a frame (normal_frame is {self.normal_frame!r}).",
                f"Specify one of {', '.join(NORMAL_FRAMES)}.",
            )
        check_unit_or_zero("normals", self.normals)

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Views:
        """The selected views; front-view normals are converted to world, as view 0 may change."""
        source = self.with_world_normals() if self.normal_frame == "front_view" else self
        selected = keep_view_axis(index)
        return replace(
            source,
            cameras=source.cameras[index],
            colour=source.colour[selected],
            masks=None if source.masks is None else source.masks[selected],
            normals=None if source.normals is None else source.normals[selected],
        )

    def to(self, device: torch.device | str) -> Views:
        """The same views on another device."""
        return replace(
            self,
            cameras=self.cameras.to(device),
            colour=self.colour.to(device),
            masks=None if self.masks is None else self.masks.to(device),
            normals=None if self.normals is None else self.normals.to(device),
        )

    def silhouettes(self) -> Views:
        """The cameras and masks with a white colour that occupies no memory."""
        white = self.colour.new_ones(1, 1, 1, 1).expand_as(self.colour)
        return Views(self.cameras, white, self.masks)

    def resized(self, width: int, height: int) -> Views:
        """The same views downsampled by area averaging.

        Args:
            width: new width in pixels, at most the current one.
            height: new height in pixels, at most the current one.
        """
        size = (height, width)
        colour = torch.stack([_downsample_area(image, size) for image in self.colour])
        masks = normals = None
        if self.masks is not None:
            masks = torch.stack(
                [_downsample_area(mask[..., None], size)[..., 0] for mask in self.masks]
            )
        if self.normals is not None:
            normals = torch.stack([_downsample_area(image, size) for image in self.normals])
            length = normals.norm(dim=-1, keepdim=True)
            normals = torch.where(length > 0.1, normals / length.clamp_min(0.1), 0.0)
        cameras = self.cameras.resized(width, height)
        return Views(cameras, colour, masks, normals, self.normal_frame)

    def without_normals(self) -> Views:
        """The same views without normals."""
        return replace(self, normals=None, normal_frame=None)

    def with_world_normals(self) -> Views:
        """The same views with their normals in the world frame."""
        return self.with_normals_in("world")

    def with_normals_in(self, frame: NormalFrame) -> Views:
        """The same views with their normals in another frame."""
        if self.normals is None or self.normal_frame == frame:
            return self
        to_world = frame_to_world(self.cameras, self.normal_frame)  # (V, 3, 3)
        from_world = frame_to_world(self.cameras, frame).transpose(1, 2)
        rotation = (from_world @ to_world)[:, None, None]  # (V, 1, 1, 3, 3)
        normals = (rotation @ self.normals[..., None])[..., 0]
        return replace(self, normals=normals, normal_frame=frame)


def _downsample_area(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image (H, W, C) downsampled to (h, w, C) by area averaging."""
    planes = image.movedim(-1, 0)[None]
    return torch.nn.functional.interpolate(planes, size=size, mode="area")[0].movedim(0, -1)


def frame_to_world(cameras: Cameras, frame: NormalFrame) -> Tensor:
    """(V, 3, 3) rotations of normals from `frame` to world."""
    rotation = cameras.rotation
    if frame == "world":
        return torch.eye(3, dtype=rotation.dtype, device=rotation.device).expand_as(rotation)
    opengl = rotation.transpose(1, 2) @ rotation.new_tensor(OPENGL_FROM_OPENCV)
    return opengl if frame == "camera" else opengl[:1].expand_as(opengl)

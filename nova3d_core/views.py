"""Images of one object together with the cameras that took them."""

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
    """V images with their cameras, and with masks and normals where there are some.

    Raises:
        InputError: on shapes that do not belong together, NaN, values out of range, or normals
            that are no unit vectors or come without a declared frame. Numbers become float32.
    """

    cameras: Cameras
    """V cameras."""
    colour: Tensor
    """(V, H, W, 3) float32 sRGB in 0..1, on white."""
    masks: Tensor | None = None
    """(V, H, W) float32, 1 on the object; a pixel on the silhouette holds the covered share."""
    normals: Tensor | None = None
    """(V, H, W, 3) unit vectors in `normal_frame`, zero where there is no object."""
    normal_frame: NormalFrame | None = None
    """The frame of the normals: world, camera or front_view. Needed with normals."""

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
                f"Declare one of {', '.join(NORMAL_FRAMES)}.",
            )
        check_unit_or_zero("normals", self.normals)

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Views:
        """The chosen views; front-view normals come out in the world, as view 0 may be gone."""
        source = self.with_world_normals() if self.normal_frame == "front_view" else self
        chosen = keep_view_axis(index)
        return replace(
            source,
            cameras=source.cameras[index],
            colour=source.colour[chosen],
            masks=None if source.masks is None else source.masks[chosen],
            normals=None if source.normals is None else source.normals[chosen],
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
        """The cameras and masks alone; the colour is a white that takes no memory."""
        white = self.colour.new_ones(1, 1, 1, 1).expand_as(self.colour)
        return Views(self.cameras, white, self.masks)

    def resized(self, width: int, height: int) -> Views:
        """The same views with smaller images of another size: means over areas of pixels.

        Args:
            width: of the new images, at most that of the old ones.
            height: likewise.
        """
        size = (height, width)
        colour = torch.stack([_area_means(image, size) for image in self.colour])
        masks = normals = None
        if self.masks is not None:
            masks = torch.stack([_area_means(mask[..., None], size)[..., 0] for mask in self.masks])
        if self.normals is not None:
            normals = torch.stack([_area_means(image, size) for image in self.normals])
            length = normals.norm(dim=-1, keepdim=True)
            normals = torch.where(length > 0.1, normals / length.clamp_min(0.1), 0.0)
        cameras = self.cameras.resized(width, height)
        return Views(cameras, colour, masks, normals, self.normal_frame)

    def with_world_normals(self) -> Views:
        """The same views with their normals turned into the world frame."""
        return self.with_normals_in("world")

    def with_normals_in(self, frame: NormalFrame) -> Views:
        """The same views with their normals expressed in another frame."""
        if self.normals is None or self.normal_frame == frame:
            return self
        to_world = frame_to_world(self.cameras, self.normal_frame)  # (V, 3, 3)
        from_world = frame_to_world(self.cameras, frame).transpose(1, 2)
        turn = (from_world @ to_world)[:, None, None]  # (V, 1, 1, 3, 3)
        normals = (turn @ self.normals[..., None])[..., 0]
        return replace(self, normals=normals, normal_frame=frame)


def _area_means(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image (H, W, C) reduced to (h, w, C)."""
    planes = image.movedim(-1, 0)[None]
    return torch.nn.functional.interpolate(planes, size=size, mode="area")[0].movedim(0, -1)


def frame_to_world(cameras: Cameras, frame: NormalFrame) -> Tensor:
    """(V, 3, 3) rotations that turn normals of `frame` into the world."""
    rotation = cameras.rotation
    if frame == "world":
        return torch.eye(3, dtype=rotation.dtype, device=rotation.device).expand_as(rotation)
    opengl = rotation.transpose(1, 2) @ rotation.new_tensor(OPENGL_FROM_OPENCV)
    return opengl if frame == "camera" else opengl[:1].expand_as(opengl)

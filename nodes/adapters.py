"""The host's IMAGE, MASK, MESH, 3D files and viewer cameras <-> the core's tensors and bundles.

Everything here makes new tensors or passes tensors on; nothing given is ever changed. Call it
inside `runtime.working`: tensors that the host made in inference mode are copied out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..nova3d_core.cameras.cameras import Cameras
from ..nova3d_core.conventions import encode_normals
from ..nova3d_core.errors import InputError
from .load3d import camera_of_viewer, placed_in_viewer

if TYPE_CHECKING:
    from ..nova3d_core.mesh import Mesh
    from ..nova3d_core.views import Views


def plain(tensor: Tensor) -> Tensor:
    """A float32 tensor on the CPU that gradients may be taken of."""
    return (tensor.clone() if tensor.is_inference() else tensor.detach()).float().cpu()


def kept(bundle: Any) -> Any:
    """A dataclass with copies of all its tensors that gradients may be taken of.

    For what was made in inference mode: it serves nowhere else.
    """
    with torch.inference_mode(False):
        return _copied(bundle)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if is_dataclass(value):
        return replace(value, **{e.name: _copied(getattr(value, e.name)) for e in fields(value)})
    return value


def images_of(image: Tensor, name: str = "image") -> Tensor:
    """An IMAGE as images (V, H, W, 3 or 4), float32 on the CPU.

    Raises:
        InputError: another number of axes or channels, or no image in it.
    """
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or image.numel() == 0:
        raise InputError(
            f"{name} has shape {tuple(image.shape)}, expected (count, height, width, 3 or 4)."
        )
    images = plain(image)
    return images.repeat(1, 1, 1, 3) if images.shape[-1] == 1 else images


def colours_of(image: Tensor, name: str) -> Tensor:
    """An IMAGE as images (V, H, W, 3); an alpha is left out."""
    return images_of(image, name)[..., :3]


def masks_of(mask: Tensor | None, images: Tensor, name: str = "mask") -> Tensor | None:
    """A MASK as (V, H, W), float32 on the CPU; None where it says nothing.

    One mask serves all images. LoadImage gives 64 x 64 zeros for an image without alpha: that is
    no mask, whatever the image's size.

    Args:
        mask: (V, H, W) or (H, W), 1 on the object.
        images: (V, H, W, C) that the masks belong to.
        name: how the user knows the input.
    """
    if mask is None:
        return None
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim == 4 and 1 in (mask.shape[1], mask.shape[3]):
        mask = mask.squeeze(1 if mask.shape[1] == 1 else 3)
    if mask.ndim != 3 or mask.numel() == 0:
        raise InputError(f"{name} has shape {tuple(mask.shape)}, expected (count, height, width).")
    masks = plain(mask)
    if masks.shape[1:] == (64, 64) != tuple(images.shape[1:3]) and not bool(masks.any()):
        return None
    if len(masks) == 1 and len(images) > 1:
        masks = masks.expand(len(images), -1, -1)
    return masks


def image_from(images: Tensor) -> Tensor:
    """Images (V, H, W, 3) as an IMAGE, on the device where the host keeps results."""
    return images.detach().float().clamp(0.0, 1.0).to(_kept_on())


def mask_from(masks: Tensor) -> Tensor:
    """Masks (V, H, W) as a MASK, on the device where the host keeps results."""
    return image_from(masks)


def normals_image_from(views: Views) -> Tensor:
    """The normals of views as an IMAGE, 0.5 n + 0.5 in the views' own frame; grey where none."""
    return image_from(encode_normals(views.normals))


def _kept_on() -> torch.device:
    try:
        from comfy.model_management import intermediate_device
    except ImportError:  # outside the host, in tests
        return torch.device("cpu")
    return intermediate_device()


def cameras_of(given: Any, width_px: int, height_px: int) -> Cameras:
    """Cameras from a NOVA3D_CAMERAS parcel or from a viewer's LOAD3D_CAMERA, for an image size."""
    if isinstance(given, Mapping):
        return camera_of_viewer(given, width_px, height_px)
    bundle = getattr(given, "bundle", None)
    if not isinstance(bundle, Cameras):
        raise InputError(
            f"cameras is {type(given).__name__}, expected those of Orbit Cameras or a 3D viewer."
        )
    return bundle.resized(width_px, height_px)


def placed_for(
    cameras: Any, mesh: Mesh, normalise: bool, model_info: list[Mapping[str, Any]] | None
) -> Mesh:
    """A mesh where cameras expect it: a viewer's see it as the viewer shows it.

    Args:
        cameras: what `cameras_of` takes.
        mesh: as it lies.
        normalise: centre it and make its longest side 1, for cameras that are no viewer's.
        model_info: the viewer's LOAD3D_MODEL_INFO, a list with an entry for each model.
    """
    if not isinstance(cameras, Mapping):
        return mesh.normalised() if normalise else mesh
    from .compat import viewer_fits_models

    return placed_in_viewer(mesh, model_info[0] if model_info else None, viewer_fits_models())


def meshes_of(given: Any, name: str = "mesh") -> list[Mesh]:
    """The meshes of a MESH, or of a 3D file where the host has such a type.

    Raises:
        InputError: it is something else, empty, or a batch without faces.
    """
    if hasattr(given, "get_bytes"):
        return [_mesh_of_file(given, name)]
    if not (hasattr(given, "vertices") and hasattr(given, "faces")):
        raise InputError(
            f"{name} is {type(given).__name__}, expected ComfyUI's own MESH.",
            "Other packs use the same word for objects of their own: convert it first.",
        )
    from .meshes import batch_items

    return batch_items(given)


def one_mesh_of(given: Any, name: str = "mesh") -> Mesh:
    """The only mesh of a MESH or 3D file.

    Raises:
        InputError: also for a batch of several.
    """
    meshes = meshes_of(given, name)
    if len(meshes) != 1:
        raise InputError(
            f"{name} is a batch of {len(meshes)} meshes, expected one.", "Take one of them first."
        )
    return meshes[0]


def _mesh_of_file(given: Any, name: str) -> Mesh:
    """The mesh in a host's 3D file, which lies on the disk or in memory."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from ..nova3d_core.io.mesh.read import read_mesh

    source = given.get_source()
    if isinstance(source, str):
        return read_mesh(source)
    ending = str(given.format or "").lower()
    if not ending.isalnum():
        raise InputError(f"{name} is a 3D file of unknown format '{ending}'.")
    with TemporaryDirectory(prefix="nova3d-") as folder:
        path = Path(folder, f"{name}.{ending}")
        path.write_bytes(given.get_bytes())
        return read_mesh(path)


def file_from(glb: bytes) -> Any:
    """The content of a GLB file as the host's FILE_3D; None where it has no such type."""
    from comfy_api.v0_0_2 import Types

    kind = getattr(Types, "File3D", None)
    return None if kind is None else kind(BytesIO(glb), file_format="glb")

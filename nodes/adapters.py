"""Converters between ComfyUI's IMAGE, MASK, MESH, 3D files and viewer cameras and core bundles.

Inputs are never modified in place. Call these functions inside `runtime.node_context`: tensors
that ComfyUI created in inference mode are cloned, so that autograd accepts them.
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
from .da3_geometry import cameras_from_da3, image_size_px, is_da3_geometry
from .load3d import cameras_from_viewer, is_from_viewer, mesh_in_viewer

if TYPE_CHECKING:
    from ..nova3d_core.mesh import Mesh
    from ..nova3d_core.views import Views

VIEWER_SIZE_PX = 1024
"""Image size of cameras of 3D nodes where none is given."""


def to_cpu_float32(tensor: Tensor) -> Tensor:
    """The tensor as float32 on the CPU, usable in autograd."""
    return (tensor.clone() if tensor.is_inference() else tensor.detach()).float().cpu()


def clone_outside_inference_mode(bundle: Any) -> Any:
    """A copy of a dataclass whose tensors were cloned outside inference mode.

    Autograd rejects tensors that were created in inference mode.
    """
    with torch.inference_mode(False):
        return _clone_tensors(bundle)


def _clone_tensors(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if is_dataclass(value):
        copies = {f.name: _clone_tensors(getattr(value, f.name)) for f in fields(value)}
        return replace(value, **copies)
    return value


def tensor_from_image(image: Tensor, name: str = "image") -> Tensor:
    """An IMAGE as a tensor (V, H, W, 3 or 4), float32 on the CPU; greyscale becomes RGB.

    Raises:
        InputError: wrong number of axes or channels, or an empty batch.
    """
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or image.numel() == 0:
        raise InputError(
            f"{name} has shape {tuple(image.shape)}, expected (count, height, width, 3 or 4)."
        )
    images = to_cpu_float32(image)
    return images.repeat(1, 1, 1, 3) if images.shape[-1] == 1 else images


def rgb_from_image(image: Tensor, name: str) -> Tensor:
    """An IMAGE as a tensor (V, H, W, 3), without alpha."""
    return tensor_from_image(image, name)[..., :3]


def tensor_from_mask(mask: Tensor | None, images: Tensor, name: str = "mask") -> Tensor | None:
    """A MASK as a tensor (V, H, W), float32 on the CPU; None for no mask.

    A single mask is repeated for all images. LoadImage returns 64 x 64 zeros for an image without
    alpha; this placeholder counts as no mask, whatever the size of the image.

    Args:
        mask: (V, H, W) or (H, W), 1 on the object.
        images: (V, H, W, C), the images that the masks belong to.
        name: name of the node input, for messages.
    """
    if mask is None:
        return None
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim == 4 and 1 in (mask.shape[1], mask.shape[3]):
        mask = mask.squeeze(1 if mask.shape[1] == 1 else 3)
    if mask.ndim != 3 or mask.numel() == 0:
        raise InputError(f"{name} has shape {tuple(mask.shape)}, expected (count, height, width).")
    masks = to_cpu_float32(mask)
    if masks.shape[1:] == (64, 64) != tuple(images.shape[1:3]) and not bool(masks.any()):
        return None
    if len(masks) == 1 and len(images) > 1:
        masks = masks.expand(len(images), -1, -1)
    return masks


def single_image(image: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """One IMAGE and MASK as (H, W, 3 or 4) in 0..1 and (H, W), or None without a mask."""
    images = tensor_from_image(image).clamp(0.0, 1.0)  # bicubic resizing overshoots slightly
    if len(images) != 1:
        raise InputError(
            f"image is a batch of {len(images)} images, expected one.",
            "Select one of them, for example with ImageFromBatch.",
        )
    masks = tensor_from_mask(mask, images)
    if masks is not None and len(masks) != 1:
        raise InputError(f"mask is a batch of {len(masks)} masks for one image.")
    return images[0], None if masks is None else masks[0]


def edit_masks_from_mask(mask: Tensor | None, images: Tensor) -> Tensor | None:
    """A MASK as edit masks (V, H, W) in 0..1; a single one is not repeated for all views.

    Raises:
        InputError: it is the placeholder of LoadImage; without masks, all pixels would be baked.
    """
    if mask is None:
        return None
    masks = tensor_from_mask(mask, images, "edit_masks")
    if masks is None:
        raise InputError(
            "edit_masks is empty: Load Image returns this for an image without a mask.",
            "Paint a mask on the image of each view, or disconnect the input.",
        )
    is_single = mask.ndim == 2 or len(mask) == 1
    return (masks[:1] if is_single else masks).clamp(0.0, 1.0)


def image_from_tensor(images: Tensor) -> Tensor:
    """Images (V, H, W, 3) as an IMAGE, on ComfyUI's device for intermediate results."""
    return images.detach().float().clamp(0.0, 1.0).to(_output_device())


def mask_from_tensor(masks: Tensor) -> Tensor:
    """Masks (V, H, W) as a MASK, on ComfyUI's device for intermediate results."""
    return image_from_tensor(masks)


def image_from_normals(views: Views) -> Tensor:
    """Normal maps of views as an IMAGE, 0.5 n + 0.5 in the views' frame; grey where undefined."""
    return image_from_tensor(encode_normals(views.normals))


def _output_device() -> torch.device:
    try:
        from comfy.model_management import intermediate_device
    except ImportError:  # tests without ComfyUI
        return torch.device("cpu")
    return intermediate_device()


def cameras_from_socket(value: Any, width_px: int, height_px: int) -> Cameras:
    """Cameras of any supported socket type at an image size.

    Args:
        value: NOVA3D_CAMERAS; LOAD3D_CAMERA, one or a list; or DA3_GEOMETRY.
        width_px, height_px: image size of the result.
    """
    bundle = getattr(value, "bundle", None)
    if isinstance(bundle, Cameras):
        return bundle.resized(width_px, height_px)
    if is_da3_geometry(value):
        return cameras_from_da3(value, width_px, height_px)
    if is_viewer_camera(value):
        infos = [value] if isinstance(value, Mapping) else list(value)
        return cameras_from_viewer(infos, width_px, height_px)
    raise InputError(
        f"cameras is {type(value).__name__}, expected the output of Orbit Cameras, the camera_info "
        "of a 3D node, or a geometry of Depth Anything 3."
    )


def cameras_in_own_size(value: Any) -> Cameras:
    """Cameras of any supported socket type at their own image size; see `cameras_from_socket`.

    Cameras of 3D nodes have none: they get square images of `VIEWER_SIZE_PX`.
    """
    bundle = getattr(value, "bundle", None)
    if isinstance(bundle, Cameras):
        return bundle
    if is_da3_geometry(value):
        return cameras_from_socket(value, *image_size_px(value))
    return cameras_from_socket(value, VIEWER_SIZE_PX, VIEWER_SIZE_PX)


def is_viewer_camera(value: Any) -> bool:
    """Whether a socket value is a LOAD3D_CAMERA: a dict, or a list of them."""
    if isinstance(value, Mapping):
        return not is_da3_geometry(value)
    return type(value) in (list, tuple)


def mesh_for_cameras(
    cameras: Any, mesh: Mesh, normalise: bool, model_info: list[Mapping[str, Any]] | None
) -> Mesh:
    """A mesh in the world frame of cameras: as displayed, for the cameras of 3D nodes.

    Args:
        cameras: socket value; see `cameras_from_socket`.
        mesh: in its own coordinates.
        normalise: centre the mesh and scale its longest side to 1; only for NOVA3D_CAMERAS, as
            other cameras are in the world of the mesh.
        model_info: the viewer's LOAD3D_MODEL_INFO, a list with one entry per model.
    """
    if getattr(cameras, "bundle", None) is not None:
        return mesh.normalised() if normalise else mesh
    if is_da3_geometry(cameras):
        return mesh
    from .compat import viewer_auto_scales_models

    infos = [cameras] if isinstance(cameras, Mapping) else cameras
    auto_scaled = viewer_auto_scales_models() and all(is_from_viewer(info) for info in infos)
    info = model_info[0] if model_info else None
    return mesh_in_viewer(mesh, info, auto_scaled)


def meshes_from_socket(value: Any, name: str = "mesh") -> list[Mesh]:
    """The meshes of a MESH batch or of a 3D file.

    Raises:
        InputError: another type, an empty batch, or a mesh without faces.
    """
    if hasattr(value, "get_bytes"):
        return [_mesh_from_file3d(value, name)]
    if not (hasattr(value, "vertices") and hasattr(value, "faces")):
        raise InputError(
            f"{name} is {type(value).__name__}, expected ComfyUI's own MESH.",
            "Other packs use the name MESH for their own types: convert the mesh first.",
        )
    from .mesh_adapters import meshes_from_batch

    return meshes_from_batch(value)


def single_mesh_from_socket(value: Any, name: str = "mesh") -> Mesh:
    """The only mesh of a MESH or 3D file.

    Raises:
        InputError: as `meshes_from_socket`, or a batch of several meshes.
    """
    meshes = meshes_from_socket(value, name)
    if len(meshes) != 1:
        raise InputError(
            f"{name} is a batch of {len(meshes)} meshes, expected one.", "Select one of them first."
        )
    return meshes[0]


def _mesh_from_file3d(file: Any, name: str) -> Mesh:
    """The mesh of a ComfyUI 3D file, which is on disk or in memory."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from ..nova3d_core.io.mesh.read import read_mesh

    source = file.get_source()
    if isinstance(source, str):
        return read_mesh(source)
    suffix = str(file.format or "").lower()
    if not suffix.isalnum():
        raise InputError(f"{name} is a 3D file of unknown format '{suffix}'.")
    with TemporaryDirectory(prefix="nova3d-") as folder:
        path = Path(folder, f"{name}.{suffix}")
        path.write_bytes(file.get_bytes())
        return read_mesh(path)


def file3d_from_glb(glb: bytes) -> Any:
    """The bytes of a GLB file as ComfyUI's FILE_3D; None where ComfyUI lacks this type."""
    from comfy_api.v0_0_2 import Types

    file_type = getattr(Types, "File3D", None)
    return None if file_type is None else file_type(BytesIO(glb), file_format="glb")

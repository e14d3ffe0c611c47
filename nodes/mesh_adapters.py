"""Converters between ComfyUI's MESH, a padded batch, and the core's `Mesh`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import nova3d_core
from ..nova3d_core.errors import InputError
from ..nova3d_core.io.images.srgb import linear_from_srgb, srgb_from_linear
from ..nova3d_core.mesh import ZERO_ORIGIN, Mesh
from .mesh_material import batch_material, material_from_batch, with_base_colour_factor

logger = logging.getLogger(nova3d_core.__name__).getChild("nodes")
"""Below the core's logger, whose warnings the node displays."""

VERTEX_ATTRIBUTES = ("uvs", "vertex_colors", "normals", "tangents")
_WHITE = 1.0 - 1e-3
"""Linear colour from which a channel counts as white, and alpha as opaque."""
ORIGINS_ATTRIBUTE = "nova3d_origins"
"""Attribute of a MESH: batch index -> `Mesh.origin`, for non-zero origins."""


def meshes_from_batch(batch: Any) -> list[Mesh]:
    """The meshes of a ComfyUI MESH, without padding; a warning names what is dropped.

    Vertex colours are linear in ComfyUI, as in glTF, and sRGB in the core. Older ComfyUI versions
    have vertices and faces only.
    """
    vertices, faces = _with_batch_axis(batch.vertices, 3), _with_batch_axis(batch.faces, 3)
    if len(vertices) == 0 or len(vertices) != len(faces):
        raise InputError(
            f"mesh is a batch of {len(vertices)} vertex lists and {len(faces)} face lists."
        )
    dropped: list[str] = []
    meshes = [_mesh_at(batch, vertices, faces, i, dropped) for i in range(len(vertices))]
    if dropped:
        logger.warning("the mesh loses: %s", ", ".join(dict.fromkeys(dropped)))
    return meshes


def _mesh_at(batch: Any, vertices: Tensor, faces: Tensor, index: int, dropped: list[str]) -> Mesh:
    counts = getattr(batch, "vertex_counts", None), getattr(batch, "face_counts", None)
    vertex_count = vertices.shape[1] if counts[0] is None else int(counts[0][index])
    face_count = faces.shape[1] if counts[1] is None else int(counts[1][index])

    def attribute(name: str) -> Tensor | None:
        value = getattr(batch, name, None)
        return None if value is None else _to_cpu(_with_batch_axis(value, 3)[index, :vertex_count])

    def image(name: str) -> Tensor | None:
        value = getattr(batch, name, None)
        if value is None:
            return None
        label = name.replace("_", " ")
        if uv is None:
            dropped.append(f"{label} (it has no UVs)")
            return None
        value = _with_batch_axis(value, 4)
        if len(value) != len(vertices):
            raise InputError(
                f"mesh is a batch of {len(vertices)}, but has {len(value)} images of {label}."
            )
        value = _to_cpu(value[index])
        if name == "texture":  # the alpha of other maps has no meaning
            _note_alpha(value, name, dropped)
        return value[..., :3].clamp(0.0, 1.0)

    uv, colours, normals, tangents = (attribute(name) for name in VERTEX_ATTRIBUTES)
    texture, material = image("texture"), material_from_batch(batch, image)
    if colours is not None:
        _note_alpha(colours, "vertex colours", dropped)
        if texture is not None and bool((colours[:, :3] < _WHITE).any()):
            dropped.append("vertex colours (it has a texture)")
        colours = torch.from_numpy(srgb_from_linear(colours[:, :3].numpy())).float()
    mesh = Mesh(
        _to_cpu(vertices[index, :vertex_count]),
        _to_cpu(faces[index, :face_count]).long(),
        uv=uv,
        texture=texture,
        normals=None if normals is None else torch.nn.functional.normalize(normals, dim=1),
        vertex_colours=colours,
        origin=getattr(batch, ORIGINS_ATTRIBUTE, {}).get(index, ZERO_ORIGIN),
        tangents=tangents,
        material=material,
    )
    return with_base_colour_factor(mesh, batch, dropped)


def _note_alpha(colours: Tensor, name: str, dropped: list[str]) -> None:
    """Notes the transparency of colours (..., 3 or 4), if any."""
    if colours.shape[-1] == 4 and bool((colours[..., 3] < _WHITE).any()):
        dropped.append(f"transparency of the {name}")


def _with_batch_axis(tensor: Any, axes: int) -> Tensor:
    """The tensor with a batch axis, which some nodes omit for a single mesh."""
    if isinstance(tensor, list | tuple):
        tensor = torch.stack([torch.as_tensor(each) for each in tensor])
    tensor = torch.as_tensor(tensor)
    return tensor[None] if tensor.ndim == axes - 1 else tensor


def _to_cpu(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, usable in autograd."""
    return (tensor.clone() if tensor.is_inference() else tensor.detach()).cpu()


def batch_from_meshes(meshes: Sequence[Mesh], mesh_class: Callable[..., Any] | None = None) -> Any:
    """Core meshes as a ComfyUI MESH.

    Args:
        meshes: one or more. Meshes that lack an attribute that others have get white colours and
            textures, and zeros elsewhere; textures are resized to the largest.
        mesh_class: ComfyUI's MESH class; imported from ComfyUI by default.
    """
    mesh_class = mesh_class or host_mesh_class()
    attributes: dict[str, Any] = {
        "uvs": _padded([mesh.uv for mesh in meshes], meshes, 0.0),
        "vertex_colors": _padded([_linear(mesh.vertex_colours) for mesh in meshes], meshes, 1.0),
        "normals": _padded([mesh.normals for mesh in meshes], meshes, 0.0),
        "texture": _texture_stack([mesh.texture for mesh in meshes]),
        **batch_material(meshes, _texture_stack),
    }
    if any(mesh.tangents is not None for mesh in meshes):
        attributes["tangents"] = _padded([mesh.tangents for mesh in meshes], meshes, 0.0)
    if len({(len(mesh.vertices), len(mesh.faces)) for mesh in meshes}) > 1:
        attributes["vertex_counts"] = torch.tensor([len(mesh.vertices) for mesh in meshes])
        attributes["face_counts"] = torch.tensor([len(mesh.faces) for mesh in meshes])
    vertices = _padded([mesh.vertices for mesh in meshes], meshes, 0.0)
    faces = torch.nn.utils.rnn.pad_sequence([mesh.faces.cpu() for mesh in meshes], True)
    try:
        batch = mesh_class(vertices, faces, **attributes)
    except TypeError:  # older ComfyUI: the class takes geometry only, or fewer attributes
        batch = mesh_class(vertices, faces)
        for name, value in attributes.items():
            setattr(batch, name, value)  # our own nodes read them back
    origins = {i: mesh.origin for i, mesh in enumerate(meshes) if mesh.origin != ZERO_ORIGIN}
    if origins:
        setattr(batch, ORIGINS_ATTRIBUTE, origins)
    return batch


def host_mesh_class() -> Callable[..., Any]:
    """ComfyUI's MESH class; its module depends on the version."""
    from comfy_api.v0_0_2 import Types

    if hasattr(Types, "MESH"):
        return Types.MESH
    from comfy_extras.nodes_hunyuan3d import MESH

    return MESH


def _linear(colours: Tensor | None) -> Tensor | None:
    if colours is None:
        return None
    return torch.from_numpy(linear_from_srgb(colours.cpu().numpy())).float()


def _padded(values: list[Tensor | None], meshes: Sequence[Mesh], fill: float) -> Tensor | None:
    """(B, N, C) per-vertex values, zero-padded; None if no mesh has any."""
    example = next((value for value in values if value is not None), None)
    if example is None:
        return None
    rows = [
        value.detach().cpu()
        if value is not None
        else torch.full((len(mesh.vertices), example.shape[1]), fill)
        for value, mesh in zip(values, meshes, strict=True)
    ]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _texture_stack(
    textures: list[Tensor | None], missing: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Tensor | None:
    """(B, H, W, 3) textures, resized to the largest; one colour for meshes without a texture."""
    sizes = [texture.shape[:2] for texture in textures if texture is not None]
    if not sizes:
        return None
    size = max(height for height, _ in sizes), max(width for _, width in sizes)
    stack = [
        torch.tensor(missing).expand(*size, 3)
        if texture is None
        else _resized(texture.detach().cpu(), size)
        for texture in textures
    ]
    return torch.stack(stack)


def _resized(texture: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(texture.shape[:2]) == size:
        return texture
    return torch.nn.functional.interpolate(
        texture.movedim(-1, 0)[None], size, mode="bilinear", align_corners=False
    )[0].movedim(0, -1)

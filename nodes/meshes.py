"""The host's MESH, a batch whose items may be padded to one length, <-> the core's `Mesh`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..nova3d_core.errors import InputError
from ..nova3d_core.io.images.srgb import linear_from_srgb, srgb_from_linear
from ..nova3d_core.mesh import ZERO_ORIGIN, Mesh

ON_VERTICES = ("uvs", "vertex_colors", "normals")
ORIGINS = "nova3d_origins"
"""Attribute of a MESH: index in the batch -> `Mesh.origin`, of those that are not zero."""


def batch_items(given: Any) -> list[Mesh]:
    """The meshes of a host's MESH; what the core does not know of it is left out.

    Padding is cut off by the counts. Vertex colours are linear in the host, as in glTF, and sRGB in
    the core. Hosts before textured meshes have vertices and faces alone.
    """
    vertices, faces = _batched(given.vertices, 3), _batched(given.faces, 3)
    if len(vertices) == 0 or len(vertices) != len(faces):
        raise InputError(
            f"mesh is a batch of {len(vertices)} vertex lists and {len(faces)} face lists."
        )
    return [_item(given, vertices, faces, index) for index in range(len(vertices))]


def _item(given: Any, vertices: Tensor, faces: Tensor, index: int) -> Mesh:
    counts = getattr(given, "vertex_counts", None), getattr(given, "face_counts", None)
    corner_count = vertices.shape[1] if counts[0] is None else int(counts[0][index])
    face_count = faces.shape[1] if counts[1] is None else int(counts[1][index])

    def attribute(name: str) -> Tensor | None:
        value = getattr(given, name, None)
        return None if value is None else _plain(_batched(value, 3)[index, :corner_count])

    uv, colours, normals = (attribute(name) for name in ON_VERTICES)
    if colours is not None:
        colours = torch.from_numpy(srgb_from_linear(colours[:, :3].numpy())).float()
    texture = getattr(given, "texture", None)
    if texture is not None and uv is not None:
        texture = _plain(_batched(texture, 4)[index])[..., :3].clamp(0.0, 1.0)
    else:
        texture = None
    return Mesh(
        _plain(vertices[index, :corner_count]),
        _plain(faces[index, :face_count]).long(),
        uv=uv,
        texture=texture,
        normals=None if normals is None else torch.nn.functional.normalize(normals, dim=1),
        vertex_colours=colours,
        origin=getattr(given, ORIGINS, {}).get(index, ZERO_ORIGIN),
    )


def _batched(tensor: Any, axes: int) -> Tensor:
    """The tensor with its batch axis; some nodes leave it out for one mesh."""
    if isinstance(tensor, list | tuple):
        tensor = torch.stack([torch.as_tensor(each) for each in tensor])
    tensor = torch.as_tensor(tensor)
    return tensor[None] if tensor.ndim == axes - 1 else tensor


def _plain(tensor: Tensor) -> Tensor:
    return (tensor.clone() if tensor.is_inference() else tensor.detach()).cpu()


def mesh_batch(meshes: Sequence[Mesh], make: Callable[..., Any] | None = None) -> Any:
    """Core meshes as one MESH of the host.

    Args:
        meshes: one or more. An attribute that only some have is white, or zero, for the others;
            textures are brought to the largest size.
        make: the host's class; found by itself when the host runs.
    """
    make = make or host_class()
    settings: dict[str, Any] = {
        "uvs": _padded([mesh.uv for mesh in meshes], meshes, 0.0),
        "vertex_colors": _padded([_linear(mesh.vertex_colours) for mesh in meshes], meshes, 1.0),
        "normals": _padded([mesh.normals for mesh in meshes], meshes, 0.0),
        "texture": _texture_stack([mesh.texture for mesh in meshes]),
    }
    if len({(len(mesh.vertices), len(mesh.faces)) for mesh in meshes}) > 1:
        settings["vertex_counts"] = torch.tensor([len(mesh.vertices) for mesh in meshes])
        settings["face_counts"] = torch.tensor([len(mesh.faces) for mesh in meshes])
    vertices = _padded([mesh.vertices for mesh in meshes], meshes, 0.0)
    faces = torch.nn.utils.rnn.pad_sequence([mesh.faces.cpu() for mesh in meshes], True)
    try:
        made = make(vertices, faces, **settings)
    except TypeError:  # before textured meshes the class takes geometry alone
        made = make(vertices, faces)
        for name, value in settings.items():
            setattr(made, name, value)  # so that our own nodes hand textures on to each other
    origins = {i: mesh.origin for i, mesh in enumerate(meshes) if mesh.origin != ZERO_ORIGIN}
    if origins:
        setattr(made, ORIGINS, origins)
    return made


def host_class() -> Callable[..., Any]:
    """The host's own MESH, wherever its version keeps it."""
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
    """(B, N, C) values of all vertices, zeros behind the shorter lists; None if none has any."""
    some = next((value for value in values if value is not None), None)
    if some is None:
        return None
    rows = [
        value.detach().cpu()
        if value is not None
        else torch.full((len(mesh.vertices), some.shape[1]), fill)
        for value, mesh in zip(values, meshes, strict=True)
    ]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _texture_stack(textures: list[Tensor | None]) -> Tensor | None:
    """(B, H, W, 3) textures of the largest size; white where a mesh has none."""
    sizes = [texture.shape[:2] for texture in textures if texture is not None]
    if not sizes:
        return None
    size = max(height for height, _ in sizes), max(width for _, width in sizes)
    stack = [
        torch.ones(*size, 3) if texture is None else _resized(texture.detach().cpu(), size)
        for texture in textures
    ]
    return torch.stack(stack)


def _resized(texture: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(texture.shape[:2]) == size:
        return texture
    return torch.nn.functional.interpolate(
        texture.movedim(-1, 0)[None], size, mode="bilinear", align_corners=False
    )[0].movedim(0, -1)

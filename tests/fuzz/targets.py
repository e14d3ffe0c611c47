"""Fuzz targets: for each reader, valid seed files, container mutators and checks."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as save_safetensors

from nova3d_core.io.images.decode import MAX_PIXELS
from nova3d_core.io.images.images import read_image, read_mask
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.settings import read_settings
from nova3d_core.io.splats.dot_splat import splats_to_dot_splat
from nova3d_core.io.splats.files import read_splats
from nova3d_core.io.splats.ply import splats_to_ply
from nova3d_core.io.views.transforms_json import read_views
from nova3d_core.mesh import Mesh
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.splats import Splats
from nova3d_core.training.data.shards import SHARD_INFO, ShardDataset, read_shard
from nova3d_core.views import Views
from nova3d_core.weights.files.read import open_weights

from .containers import Wrapped, glb, wrap_glb, wrap_safetensors, wrap_tar, wrap_zip
from .guards import MEMORY_MIB


@dataclass(frozen=True)
class Target:
    """One reader."""

    name: str
    file: str
    """The mutated file, relative to the folder."""
    seeds: tuple[bytes, ...]
    """Valid contents of that file."""
    read: Callable[[Path], Any]
    """Reads the folder; returns something that `check` can judge."""
    check: Callable[[Any], None] = lambda result: None
    others: dict[str, bytes] = field(default_factory=dict)
    """Other files of the folder."""
    memory_mib: float = MEMORY_MIB
    """By how much memory may grow, whatever the file's size."""
    wrapped: Wrapped | None = None
    """For containers: mutates the content and mends lengths and checksums around it."""


def check_mesh(mesh: Mesh) -> None:
    """Checks the invariants of a mesh."""
    assert bool(torch.isfinite(mesh.vertices).all()) and len(mesh.faces) > 0
    extent = float((mesh.vertices.amax(dim=0) - mesh.vertices.amin(dim=0)).max())
    assert 1e-12 < extent < 1e12, f"extent {extent}"
    assert int(mesh.faces.min()) >= 0 and int(mesh.faces.max()) < len(mesh.vertices)
    for name in ("uv", "normals", "vertex_colours", "texture"):
        values = getattr(mesh, name)
        assert values is None or bool(torch.isfinite(values).all()), name


def check_image(image: torch.Tensor) -> None:
    """Checks the range of an image."""
    assert bool(torch.isfinite(image).all()) and image.numel() > 0
    assert float(image.min()) >= 0.0 and float(image.max()) <= 1.0


def check_views(views: Views) -> None:
    """Checks that views have finite cameras at plausible positions."""
    check_image(views.colour)
    pose = views.cameras.world_to_camera
    assert bool(torch.isfinite(pose).all()) and float(pose.abs().max()) < 1e12
    focal = views.cameras.intrinsics[:, :2].abs()
    assert bool(torch.isfinite(focal).all()) and float(focal.max()) < 1e12


def check_splats(splats: Splats) -> None:
    """Checks the invariants of splats."""
    assert len(splats) > 0
    for name, values in vars(splats).items():
        assert bool(torch.isfinite(values).all()), name
    assert float(splats.positions.abs().max()) <= 1e12
    assert 0.0 < float(splats.scales.min()) <= float(splats.scales.max()) <= 1e12
    assert 0.0 <= float(splats.opacities.min()) <= float(splats.opacities.max()) <= 1.0


def image_bytes(kind: str, mode: str = "RGB", size: tuple[int, int] = (12, 8), **options) -> bytes:
    """An encoded small image with a gradient."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    levels = np.arange(size[0] * size[1] * channels, dtype=np.uint8).reshape(size[1], size[0], -1)
    image = Image.fromarray(levels[..., 0] if channels == 1 else levels, mode=None)
    content = io.BytesIO()
    image.convert(mode).save(content, kind, **options)
    return content.getvalue()


PNG = image_bytes("PNG")


def _tetrahedron() -> tuple[np.ndarray, np.ndarray]:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype="<f4")
    return vertices, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], dtype="<u2")


def gltf_document(uri: str | None) -> tuple[dict[str, Any], bytes]:
    """A textured, coloured, skinned, morphed and instanced tetrahedron, and its buffer."""
    vertices, faces = _tetrahedron()
    parts = {
        "POSITION": (vertices, "VEC3", 5126),
        "INDEX": (faces.reshape(-1, 1), "SCALAR", 5123),
        "TEXCOORD_0": (vertices[:, :2].copy(), "VEC2", 5126),
        "COLOR_0": (np.full((4, 4), 200, "<u1"), "VEC4", 5121),
        "JOINTS_0": (np.zeros((4, 4), "<u1"), "VEC4", 5121),
        "WEIGHTS_0": (np.tile(np.array([[1, 0, 0, 0]], "<f4"), (4, 1)), "VEC4", 5126),
        "MORPH": (vertices * 0.1, "VEC3", 5126),
        "SHIFT": (np.array([[0, 0, 0], [2, 0, 0]], "<f4"), "VEC3", 5126),
        "BIND": (np.eye(4, dtype="<f4").reshape(1, 16), "MAT4", 5126),
    }
    blob, views, accessors, at = b"", [], [], {}
    for name, (values, kind, component) in parts.items():
        blob += b"\0" * (-len(blob) % 4)
        content = values.tobytes()
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(content)})
        accessor = {"bufferView": len(views) - 1, "componentType": component, "type": kind}
        accessors.append({**accessor, "count": len(values)})
        at[name] = len(accessors) - 1
        blob += content
    accessors[at["COLOR_0"]]["normalized"] = True
    blob += b"\0" * (-len(blob) % 4)
    views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(PNG)})
    blob += PNG + b"\0" * (-len(PNG) % 4)
    names = ("POSITION", "TEXCOORD_0", "COLOR_0", "JOINTS_0", "WEIGHTS_0")
    primitive = {
        "attributes": {name: at[name] for name in names},
        "indices": at["INDEX"],
        "material": 0,
        "targets": [{"POSITION": at["MORPH"]}],
    }
    instances = {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": at["SHIFT"]}}}
    transform = {"KHR_texture_transform": {"offset": [0.1, 0.2], "rotation": 0.3, "scale": [1, 2]}}
    texture = {"index": 0, "texCoord": 0, "extensions": transform}
    document = {
        "asset": {"version": "2.0"},
        "extensionsUsed": ["EXT_mesh_gpu_instancing", "KHR_texture_transform"],
        "scene": 0,
        "scenes": [{"nodes": [0, 2]}],
        "nodes": [
            {"mesh": 0, "skin": 0, "children": [1], "translation": [1, 0, 0]},
            {"rotation": [0, 0, 0, 1], "scale": [1, 1, 1], "matrix": [1, 0, 0, 0] * 4},
            {"mesh": 0, "extensions": instances, "weights": [0.5]},
        ],
        "skins": [{"joints": [0], "inverseBindMatrices": at["BIND"]}],
        "meshes": [{"primitives": [primitive], "weights": [0.25]}],
        "materials": [
            {
                "pbrMetallicRoughness": {
                    "baseColorFactor": [1, 0.5, 1, 1],
                    "baseColorTexture": texture,
                }
            }
        ],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"wrapS": 33071, "wrapT": 10497}],
        "images": [{"bufferView": len(views) - 1, "mimeType": "image/png"}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(blob), **({"uri": uri} if uri else {})}],
    }
    del document["nodes"][1]["matrix"]
    return document, blob


def _ply_binary(order: str) -> bytes:
    vertices, faces = _tetrahedron()
    kind = {"<": "little", ">": "big"}[order]
    header = (
        f"ply\nformat binary_{kind}_endian 1.0\ncomment TextureFile texture.png\n"
        "element vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        "element face 4\nproperty list uchar int vertex_indices\nend_header\n"
    ).encode()
    rows = b"".join(struct.pack(f"{order}3f3B", *map(float, v), 200, 10, 10) for v in vertices)
    return header + rows + b"".join(struct.pack(f"{order}B3i", 3, *map(int, f)) for f in faces)


def _stl_binary() -> bytes:
    vertices, faces = _tetrahedron()
    content = b"solid".ljust(80, b"\0") + struct.pack("<I", len(faces))
    for face in faces:
        content += struct.pack("<12fH", 0, 0, 1, *vertices[face].reshape(-1).tolist(), 0)
    return content


_PLY_TEXT = b"""ply
format ascii 1.0
element vertex 5
property double x
property double y
property double z
property float s
property float t
element face 2
property list uchar int vertex_index
property uchar red
property uchar green
property uchar blue
end_header
0 0 0 0 0
1 0 0 1 0
1 1 0 1 1
0.5 0.2 0 0.5 0.2
0 0 1 0 1
4 0 1 2 3 255 0 0
3 0 1 4 0 255 0
"""
_OBJ = b"""mtllib toy.mtl
o toy
v 0 0 0 1 0 0
v 1 0 0 1 0 0
v 1 1 0 1 0 0
v .5 .2 0 0 1 0
v 0 0 1 0 0 1
vt 0 0
vt 1 0
vt 1 1
vn 0 0 1
usemtl red
f 1/1/1 2/2/1 3/3/1 4/1/1
f -5//1 -4//1 -1//1
"""
_MTL = b"newmtl red\nKd 1 0 0\nmap_Kd -s 1 1 1 -clamp on texture.png\nnewmtl blue\nKd 0 0 1\n"
_OFF = b"""COFF
# comment
5 2 0
0 0 0 255 0 0 255
1 0 0 255 0 0 255
1 1 0 255 0 0 255
.5 .2 0 0 0 0 0
0 0 1 0 0 0 0
4 0 1 2 3
3 0 1 4
"""
_STL = b"""solid a
facet normal 0 0 1
outer loop
vertex 0 0 0
vertex 1 0 0
vertex 0 1 0
endloop
endfacet
endsolid a
"""
_SETTINGS = {"method": "sdf", "sdf": {"preset": "draft", "seed": 3}, "bake": {"texture_px": 512}}


def _transforms() -> bytes:
    frames = []
    for index, x in enumerate((0.0, 0.5)):
        matrix = [[1, 0, 0, x], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]]
        frames.append({"file_path": f"images/{index}.png", "transform_matrix": matrix})
    frames[0]["mask_path"] = "images/mask.png"
    frames[1]["mask_path"] = "images/mask.png"
    lens = {"w": 12, "h": 8, "fl_x": 14.0, "fl_y": 14.0, "cx": 6, "cy": 4, "k1": 0.01, "p1": 0.001}
    return json.dumps(
        {"camera_model": "OPENCV", "world_up": "+Y", **lens, "frames": frames}
    ).encode()


def _mask() -> bytes:
    levels = np.zeros((8, 12), np.uint8)
    levels[2:6, 3:9] = 255
    content = io.BytesIO()
    Image.fromarray(levels).save(content, "PNG")
    return content.getvalue()


_IMAGES = {"images/0.png": PNG, "images/1.png": image_bytes("PNG"), "images/mask.png": _mask()}
_COLMAP_CAMERAS = b"# cameras\n1 OPENCV 12 8 14 14 6 4 0.01 0 0.001 0\n"
_COLMAP_IMAGES = b"# images\n1 1 0 0 0 0 0 2 1 0.png\n\n2 0.99 0.14 0 0 0.5 0 2 1 1.png\n1 2 -1\n"


def _colmap_cameras_bin() -> bytes:
    return struct.pack("<QiiQQ4d", 1, 1, 1, 12, 8, 14, 14, 6, 4)


def _colmap_images_bin() -> bytes:
    content = struct.pack("<Q", 2)
    for number, x in ((1, 0.0), (2, 0.5)):
        content += struct.pack("<i7di", number, 1, 0, 0, 0, x, 0, 2, 1)
        content += f"{number - 1}.png".encode() + b"\0" + struct.pack("<Qddq", 1, 3.0, 3.0, -1)
    return content


def _checkpoint(legacy: bool) -> bytes:
    content = io.BytesIO()
    weights = {
        "state_dict": {"a.weight": torch.ones(3, 2), "b": torch.zeros(4, dtype=torch.float16)}
    }
    torch.save(weights, content, _use_new_zipfile_serialization=not legacy)
    return content.getvalue()


def _shard() -> bytes:
    views, side = 2, 4
    strip = np.arange(views * side * side * 3, dtype=np.uint8).reshape(views * side, side, 3)
    encoded = io.BytesIO()
    Image.fromarray(strip).save(encoded, "PNG")
    array = io.BytesIO()
    np.save(array, np.ones((views, side, side), np.float32))
    members = {"colour.png": encoded.getvalue(), "mask.npy": array.getvalue()}
    header = {"azimuth_deg": [0.0, 180.0], "elevation_deg": [0.0, 0.0]}
    members["json"] = json.dumps(header).encode()
    whole = {"format": 1, "count": 2, "members": sorted(members), "views": views, "size_px": side}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entries = [(SHARD_INFO, json.dumps(whole).encode())]
        entries += [(f"{key}.{name}", c) for key in ("0", "1") for name, c in members.items()]
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return archive.getvalue()


def _read_all_weights(path: Path) -> None:
    with open_weights(path) as weights:
        for name in weights:
            weights[name]


def _read_shard(path: Path) -> None:
    read_shard(path)
    list(ShardDataset([path], epochs=1, shuffle=False))


def _splats() -> Splats:
    generator = torch.Generator().manual_seed(0)
    shapes = {"positions": (9, 3), "scales": (9, 3), "rotations": (9, 4), "colours": (9, 3)}
    values = {name: torch.rand(*shape, generator=generator) for name, shape in shapes.items()}
    return Splats(**values, opacities=torch.rand(9, generator=generator))


def _splats_text() -> bytes:
    """The splats as ASCII, with one higher harmonic."""
    head, _, body = splats_to_ply(_splats()).partition(b"end_header\n")
    rows = np.frombuffer(body, "<f4").reshape(9, -1)
    lines = "\n".join(" ".join(f"{value:.6g}" for value in (*row, 0.1)) for row in rows)
    head = head.replace(b"binary_little_endian", b"ascii")
    return head + b"property float f_rest_0\nend_header\n" + lines.encode()


def _mesh_target(name: str, file: str, *seeds: bytes, **options: Any) -> Target:
    options.setdefault("others", {"texture.png": PNG})
    return Target(name, file, seeds, lambda folder: read_mesh(folder / file), check_mesh, **options)


def _image_target(name: str, file: str, *seeds: bytes) -> Target:
    return Target(
        name,
        file,
        seeds,
        lambda folder: read_image(folder / file),
        check_image,
        memory_mib=4 * 4 * MAX_PIXELS / 2**20 + 64,  # four times the largest RGBA image's bytes
    )


def _targets() -> list[Target]:
    document, blob = gltf_document("toy.bin")
    embedded, _ = gltf_document(None)
    embedded_json = json.dumps(embedded).encode()
    gltf = json.dumps({**document, "images": [{"uri": "texture.png"}]}).encode()
    colmap = {
        f"images/{name.removeprefix('images/')}": content for name, content in _IMAGES.items()
    }
    return [
        _mesh_target("glb", "toy.glb", glb(embedded_json, blob), wrapped=wrap_glb),
        _mesh_target("gltf", "toy.gltf", gltf, others={"toy.bin": blob, "texture.png": PNG}),
        _mesh_target("obj", "toy.obj", _OBJ, others={"toy.mtl": _MTL, "texture.png": PNG}),
        Target(
            "mtl",
            "toy.mtl",
            (_MTL,),
            lambda folder: read_mesh(folder / "toy.obj"),
            check_mesh,
            {"toy.obj": _OBJ, "texture.png": PNG},
        ),
        _mesh_target("ply_text", "toy.ply", _PLY_TEXT),
        _mesh_target("ply_binary", "toy.ply", _ply_binary("<"), _ply_binary(">")),
        _mesh_target("stl", "toy.stl", _stl_binary(), _STL),
        _mesh_target("off", "toy.off", _OFF),
        Target(
            "splats_ply",
            "a.ply",
            (splats_to_ply(_splats()), _splats_text()),
            lambda folder: read_splats(folder / "a.ply"),
            check_splats,
        ),
        Target(
            "dot_splat",
            "a.splat",
            (splats_to_dot_splat(_splats()),),
            lambda folder: read_splats(folder / "a.splat"),
            check_splats,
        ),
        _image_target("png", "a.png", PNG, image_bytes("PNG", "RGBA"), image_bytes("PNG", "P")),
        _image_target("jpeg", "a.jpg", image_bytes("JPEG"), image_bytes("JPEG", "CMYK")),
        _image_target("webp", "a.webp", image_bytes("WEBP"), image_bytes("WEBP", "RGBA")),
        _image_target(
            "tiff", "a.tif", image_bytes("TIFF"), image_bytes("TIFF", compression="tiff_lzw")
        ),
        _image_target("bmp", "a.bmp", image_bytes("BMP"), image_bytes("BMP", "P")),
        Target(
            "mask", "m.png", (_mask(), image_bytes("PNG", "LA")), lambda f: read_mask(f / "m.png")
        ),
        Target("transforms", "transforms.json", (_transforms(),), read_views, check_views, _IMAGES),
        Target(
            "colmap_images",
            "sparse/0/images.txt",
            (_COLMAP_IMAGES,),
            read_views,
            check_views,
            {**colmap, "sparse/0/cameras.txt": _COLMAP_CAMERAS},
        ),
        Target(
            "colmap_cameras",
            "sparse/0/cameras.txt",
            (_COLMAP_CAMERAS,),
            read_views,
            check_views,
            {**colmap, "sparse/0/images.txt": _COLMAP_IMAGES},
        ),
        Target(
            "colmap_binary",
            "sparse/0/images.bin",
            (_colmap_images_bin(),),
            read_views,
            check_views,
            {**colmap, "sparse/0/cameras.bin": _colmap_cameras_bin()},
        ),
        Target(
            "settings",
            "settings.json",
            (json.dumps(_SETTINGS).encode(),),
            lambda folder: read_settings(folder / "settings.json", FuseConfig),
        ),
        Target(
            "safetensors",
            "a.safetensors",
            (save_safetensors({"a": torch.ones(3, 2), "b": torch.zeros(4, dtype=torch.bfloat16)}),),
            lambda folder: _read_all_weights(folder / "a.safetensors"),
            wrapped=wrap_safetensors,
        ),
        Target(
            "checkpoint",
            "a.ckpt",
            (_checkpoint(legacy=False),),
            lambda folder: _read_all_weights(folder / "a.ckpt"),
            wrapped=wrap_zip,
        ),
        Target(
            "checkpoint_legacy",
            "a.pth",
            (_checkpoint(legacy=True), pickle.dumps({"a": [1, 2.0, "x"]}, 2)),
            lambda folder: _read_all_weights(folder / "a.pth"),
        ),
        Target(
            "shard",
            "shard.tar",
            (_shard(),),
            lambda folder: _read_shard(folder / "shard.tar"),
            wrapped=wrap_tar,
        ),
    ]


TARGETS = {target.name: target for target in _targets()}

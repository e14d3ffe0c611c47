"""Materials beyond the base colour: maps, tangents and factors through GLB files and merges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from nova3d_core.errors import InputError
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.mesh.write import mesh_to_glb_bytes, write_glb, write_mesh
from nova3d_core.material import PbrMaterial
from nova3d_core.mesh import Mesh

from .gltf_builder import CORNERS, UV, Gltf, png
from .test_mesh_write import attribute, parsed_glb

MAPS = ("metallic_roughness", "normal_map", "emissive")


def levels(height: int, width: int, seed: int) -> torch.Tensor:
    """A random 8-bit image (H, W, 3) in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), generator=generator) / 255.0


@pytest.fixture
def full() -> PbrMaterial:
    return PbrMaterial(
        metallic_roughness=levels(8, 16, 0),
        has_occlusion=True,
        normal_map=levels(4, 4, 1),
        emissive=levels(16, 8, 2),
        metallic_factor=0.75,
        roughness_factor=0.5,
        normal_scale=0.25,
        occlusion_strength=0.625,
        emissive_factor=(1.0, 0.5, 0.25),
        emissive_strength=4.0,
        double_sided=True,
        unlit=True,
    )


@pytest.fixture
def shiny(full) -> Mesh:
    """A textured square with the full material and tangents."""
    tangents = torch.tensor([[1.0, 0, 0, 1], [1, 0, 0, 1], [0, 1, 0, -1], [0.6, 0.8, 0, 1]])
    return Mesh(
        torch.from_numpy(CORNERS.copy()),
        torch.tensor([[0, 1, 2], [0, 2, 3]]),
        uv=torch.from_numpy(UV.copy()),
        texture=levels(8, 8, 3),
        tangents=tangents,
        material=full,
    )


def test_glb_round_trip_keeps_the_whole_material(shiny, tmp_path, caplog):
    reloaded = read_mesh(write_glb(shiny, tmp_path / "shiny.glb"))
    assert reloaded.material.scalars == shiny.material.scalars
    for name in MAPS:
        assert torch.equal(getattr(reloaded.material, name), getattr(shiny.material, name)), name
    assert torch.equal(reloaded.tangents, shiny.tangents)
    assert torch.equal(reloaded.texture, shiny.texture)
    assert not caplog.records


def test_glb_follows_the_standard(shiny):
    header, binary = parsed_glb(mesh_to_glb_bytes(shiny))
    material, rough = header["materials"][0], header["materials"][0]["pbrMetallicRoughness"]
    assert (rough["metallicFactor"], rough["roughnessFactor"]) == (0.75, 0.5)
    packed = rough["metallicRoughnessTexture"]
    assert material["occlusionTexture"] == {**packed, "strength": 0.625}
    assert material["normalTexture"]["scale"] == 0.25
    assert material["emissiveFactor"] == [1.0, 0.5, 0.25]
    assert material["doubleSided"] is True
    strength = {"KHR_materials_emissive_strength": {"emissiveStrength": 4.0}}
    assert material["extensions"] == {**strength, "KHR_materials_unlit": {}}
    assert header["extensionsUsed"] == sorted(material["extensions"])
    assert len(header["images"]) == 4
    assert {each["sampler"] for each in header["textures"]} == {0}
    number = header["meshes"][0]["primitives"][0]["attributes"]["TANGENT"]
    accessor = header["accessors"][number]
    assert (accessor["type"], accessor["componentType"], accessor["count"]) == ("VEC4", 5126, 4)
    view = header["bufferViews"][accessor["bufferView"]]
    tangents = np.frombuffer(binary, "<f4", 16, view["byteOffset"]).reshape(4, 4)
    assert np.array_equal(tangents, shiny.tangents.numpy())
    assert np.array_equal(attribute(header, binary, "TEXCOORD_0")[1], UV)


def test_trimesh_reads_the_same_maps(shiny, tmp_path):
    path = write_glb(shiny, tmp_path / "shiny.glb")
    (body,) = trimesh.load(path).geometry.values()
    found = body.visual.material
    images = {
        "metallic_roughness": found.metallicRoughnessTexture,
        "normal_map": found.normalTexture,
        "emissive": found.emissiveTexture,
    }
    for name, image in images.items():
        expected = (getattr(shiny.material, name) * 255).round().byte().numpy()
        assert np.array_equal(np.asarray(image.convert("RGB")), expected), name
    assert found.doubleSided is True
    assert (found.metallicFactor, found.roughnessFactor) == (0.75, 0.5)


def test_a_plain_material_changes_no_byte(shiny):
    plain = replace(shiny, material=None, tangents=None)
    expected = mesh_to_glb_bytes(plain)
    assert mesh_to_glb_bytes(replace(plain, material=PbrMaterial())) == expected
    header, _ = parsed_glb(expected)
    (material,) = header["materials"]
    assert material.pop("name") == "nova3d"
    texture = {"baseColorTexture": {"index": 0}}
    rough = {"metallicFactor": 0.0, "roughnessFactor": 1.0, **texture}
    assert material == {"doubleSided": False, "pbrMetallicRoughness": rough}


@pytest.mark.parametrize("suffix", [".obj", ".ply"])
def test_formats_without_maps_name_what_they_drop(shiny, tmp_path, caplog, suffix):
    write_mesh(shiny, tmp_path / f"shiny{suffix}")
    (record,) = caplog.records
    for label in ("metallic-roughness map", "occlusion map", "normal map", "emissive map", "unlit"):
        assert label in record.getMessage()
    caplog.clear()
    write_mesh(replace(shiny, material=None), tmp_path / f"plain{suffix}")
    assert not caplog.records


def model_with_maps(**material: object) -> Gltf:
    """A textured square whose material has more entries; image 1 is a 2 x 2 ramp."""
    model = Gltf(TEXCOORD_0=UV)
    entry = model.add_material()
    ramp = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20
    model.header["images"].append({"bufferView": model.view(png(ramp))})
    model.header["textures"].append({"source": 1})
    entry |= material
    return model


def test_separate_occlusion_is_packed_into_the_red_channel(tmp_path):
    mesh = model_with_maps(occlusionTexture={"index": 1, "strength": 0.5}).read(tmp_path)
    packed, material = mesh.material.metallic_roughness, mesh.material
    assert material.has_occlusion and material.occlusion_strength == 0.5
    assert (packed[..., 1:] == 1.0).all()
    assert torch.equal((packed[..., 0] * 255).round(), torch.tensor([[0.0, 60.0], [120.0, 180.0]]))
    assert (material.metallic_factor, material.roughness_factor) == (1.0, 1.0)  # glTF's defaults


def test_maps_with_other_uv_are_named(tmp_path, caplog):
    transform = {"KHR_texture_transform": {"scale": [2.0, 2.0]}}
    model = model_with_maps(normalTexture={"index": 1, "extensions": transform})
    assert model.read(tmp_path).material is None
    assert "normal map with other UVs" in caplog.text


def test_materials_that_differ_are_named(tmp_path, caplog):
    model = model_with_maps(normalTexture={"index": 1}, doubleSided=True)
    model.add_primitive(TEXCOORD_0=UV)
    model.add_material(1, texture=False, baseColorFactor=[1, 0, 0, 1])
    mesh = model.read(tmp_path)
    assert mesh.material.labels == ["double-sidedness"]
    assert caplog.messages == ["merging the materials into one drops: normal map"]


def test_maps_without_uv_are_named_and_other_factors_stay(tmp_path, caplog):
    model = model_with_maps(normalTexture={"index": 1})
    model.header["materials"][0]["pbrMetallicRoughness"] |= {"metallicFactor": 0.5}
    del model.header["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_0"]
    mesh = model.read(tmp_path)
    assert not mesh.material.maps and mesh.material.metallic_factor == 0.5
    assert caplog.messages[-1] == "dropped because the mesh has no UVs: normal map"


def test_materials_without_factors_are_plain(tmp_path):
    assert model_with_maps().read(tmp_path).material is None
    assert model_with_maps(doubleSided=True).read(tmp_path).material.double_sided


def test_tangents_follow_rotations_and_mirrors(tmp_path, shiny):
    """The bitangent cross(n, t) w keeps pointing along the surface's v under any isometry."""
    shiny = replace(shiny, normals=torch.tensor([[0.0, 0.0, 1.0]]).repeat(4, 1))

    def bitangents(mesh: Mesh) -> torch.Tensor:
        return torch.linalg.cross(mesh.normals, mesh.tangents[:, :3]) * mesh.tangents[:, 3:]

    model = model_with_maps(normalTexture={"index": 1})
    attributes = model.header["meshes"][0]["primitives"][0]["attributes"]
    attributes["NORMAL"] = model.accessor(shiny.normals.numpy())
    attributes["TANGENT"] = model.accessor(shiny.tangents.numpy())
    for linear in (
        torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]),
        torch.diag(torch.tensor([-1.0, 1, 1])),
    ):
        matrix = torch.eye(4)
        matrix[:3, :3] = 2.0 * linear
        model.header["nodes"][0]["matrix"] = matrix.T.reshape(-1).tolist()
        for moved in (shiny.transformed(matrix), model.read(tmp_path)):
            torch.testing.assert_close(bitangents(moved), bitangents(shiny) @ linear.T)
            torch.testing.assert_close(moved.tangents[:, :3], shiny.tangents[:, :3] @ linear.T)


def test_other_uv_drop_maps_and_their_factors(full):
    left = full.without_maps()
    assert left.labels == ["double-sidedness", "unlit shading"]
    assert (left.metallic_factor, left.emissive_factor) == (0.0, (0.0, 0.0, 0.0))
    assert PbrMaterial(normal_map=levels(2, 2, 0)).without_maps() is None


def test_invalid_materials_are_rejected(shiny, full):
    with pytest.raises(InputError, match="no UV"):
        replace(shiny, uv=None, texture=None)
    with pytest.raises(InputError, match="normal map has"):
        replace(full, normal_map=torch.full((2, 2, 3), torch.nan))
    with pytest.raises(InputError, match="occlusion"):
        PbrMaterial(has_occlusion=True)
    with pytest.raises(InputError, match="finite"):
        replace(full, normal_scale=float("inf"))

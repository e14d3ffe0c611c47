"""The material of ComfyUI's MESH: round trips, SaveGLB's defaults, and what is named as lost."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from .test_mesh_adapters import ALL_CLASSES, mesh_class, mesh_namespace, meshes, random_mesh  # noqa: F401

MAPS = ("metallic_roughness", "normal_map", "emissive")


@pytest.fixture
def full(pack):
    generator = torch.Generator().manual_seed(0)
    maps = {name: torch.rand(4, 4, 3, generator=generator) for name in MAPS}
    return pack("nova3d_core.material").PbrMaterial(
        **maps,
        has_occlusion=True,
        metallic_factor=0.75,
        roughness_factor=0.5,
        normal_scale=0.25,
        occlusion_strength=0.625,
        emissive_factor=(1.0, 0.5, 0.25),
        emissive_strength=4.0,
        double_sided=False,
        unlit=True,
    )


@ALL_CLASSES
def test_materials_and_tangents_survive_a_round_trip(pack, meshes, mesh_class, full, caplog):  # noqa: F811
    plain = random_mesh(pack, 7, 0)
    original = replace(plain, material=full, tangents=torch.rand(7, 4))
    (restored,) = meshes.meshes_from_batch(meshes.batch_from_meshes([original], mesh_class))
    assert restored.material.scalars == full.scalars
    for name in MAPS:
        assert torch.equal(getattr(restored.material, name), getattr(full, name)), name
    assert torch.equal(restored.tangents, original.tangents)
    batch = meshes.batch_from_meshes([plain], mesh_class)
    assert getattr(batch, "material", None) is None
    assert meshes.meshes_from_batch(batch)[0].material is None
    assert not caplog.records


def test_batches_have_neutral_maps_where_one_is_missing(pack, meshes, full):  # noqa: F811
    pair = [replace(random_mesh(pack, 5, 0), material=full), random_mesh(pack, 5, 1)]
    batch = meshes.batch_from_meshes(pair, mesh_namespace)
    assert (batch.normal_map[1] == torch.tensor([0.5, 0.5, 1.0])).all()
    assert (batch.metallic_roughness[1] == torch.tensor([1.0, 1.0, 0.0])).all()
    assert (batch.emissive[1] == 0.0).all()


def square(**attributes):
    """A MESH of one triangle with UVs."""
    uvs = torch.rand(1, 3, 2)
    return mesh_namespace(torch.eye(3)[None], torch.tensor([[[0, 1, 2]]]), uvs=uvs, **attributes)


def test_defaults_are_those_of_save_glb(meshes):  # noqa: F811
    grey = torch.full((1, 2, 2, 3), 0.5)
    (mesh,) = meshes.meshes_from_batch(square(metallic_roughness=grey, emissive=grey))
    material = mesh.material
    assert (material.metallic_factor, material.roughness_factor) == (1.0, 1.0)
    assert material.emissive_factor == (1.0, 1.0, 1.0)
    assert material.double_sided and not material.has_occlusion and not material.unlit
    automatic = {"metallic_factor": -1.0, "roughness_factor": 0.25, "emissive_factor": [3.0, 0, 0]}
    (mesh,) = meshes.meshes_from_batch(square(material=automatic))
    assert (mesh.material.metallic_factor, mesh.material.roughness_factor) == (0.0, 0.25)
    assert mesh.material.emissive_factor == (1.0, 0.0, 0.0)
    assert meshes.meshes_from_batch(square(unlit=True))[0].material.unlit
    assert meshes.meshes_from_batch(square(unlit=False, material=None))[0].material is None


def test_base_colour_factor_multiplies_the_colours_in_linear_light(meshes, caplog):  # noqa: F811
    white = torch.ones(1, 2, 2, 3)
    tint = {"base_color_factor": [0.21404, 1.0, 0.0, 1.0]}
    (textured,) = meshes.meshes_from_batch(square(texture=white, material=tint))
    expected = torch.tensor([0.5, 1.0, 0.0])
    torch.testing.assert_close(textured.texture[0, 0], expected, atol=1e-4, rtol=0)
    (bare,) = meshes.meshes_from_batch(square(material=tint))
    torch.testing.assert_close(bare.vertex_colours[0], expected, atol=1e-4, rtol=0)
    plain = {"base_color_factor": [1.0, 1.0, 1.0, 1.0]}
    (same,) = meshes.meshes_from_batch(square(texture=white * 0.3, material=plain))
    assert torch.equal(same.texture, white[0] * 0.3)
    assert not caplog.records


def test_one_warning_names_what_is_lost(pack, meshes, caplog):  # noqa: F811
    batch = square(
        texture=torch.rand(1, 2, 2, 4),
        vertex_colors=torch.rand(1, 3, 3),
        material={"base_color_factor": [1, 1, 1, 0.5]},
    )
    meshes.meshes_from_batch(batch)
    (record,) = caplog.records
    assert record.name.startswith(pack("nova3d_core").__name__)  # the node displays it
    for part in ("transparency of the texture", "vertex colours", "transparency of the material"):
        assert part in record.getMessage()
    caplog.clear()
    batch.uvs = None
    batch.normal_map = torch.rand(1, 2, 2, 3)
    (mesh,) = meshes.meshes_from_batch(batch)
    assert not mesh.material.maps
    assert "normal map (it has no UVs)" in caplog.text
    caplog.clear()
    opaque = square(texture=torch.ones(1, 2, 2, 4), vertex_colors=torch.ones(1, 3, 4))
    opaque.normal_map = torch.zeros(1, 2, 2, 4)  # its alpha has no meaning
    meshes.meshes_from_batch(opaque)
    assert not caplog.records


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"material": {"metallic_factor": "high"}}, "metallic_factor .* expected a finite number"),
        ({"material": {"normal_scale": math.nan}}, "normal_scale .* is nan"),
        ({"material": {"emissive_factor": [1, 1]}}, "emissive_factor .* expected 3 finite numbers"),
        ({"material": {"base_color_factor": 1.0}}, "base_color_factor .* is 1.0"),
        ({"normal_map": torch.ones(2, 4, 4, 3)}, "a batch of 1, but has 2 images of normal map"),
    ],
)
def test_invalid_attributes_are_input_errors(pack, meshes, attributes, message):  # noqa: F811
    with pytest.raises(pack("nova3d_core.errors").InputError, match=message):
        meshes.meshes_from_batch(square(**attributes))


def test_null_settings_have_their_defaults(meshes):  # noqa: F811
    unset = dict.fromkeys(("metallic_factor", "normal_scale", "emissive_factor"))
    (mesh,) = meshes.meshes_from_batch(square(material=unset))
    assert mesh.material.scalars[:3] == (0.0, 1.0, 1.0) and not mesh.material.is_emissive

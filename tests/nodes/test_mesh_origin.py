"""The origin offset of a mesh survives the conversion to ComfyUI's MESH."""

from __future__ import annotations

from types import SimpleNamespace

import torch


def test_origin_survives_a_round_trip(pack):
    meshes, mesh_class = pack("nodes.mesh_adapters"), pack("nova3d_core.mesh").Mesh
    vertices, faces = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]])
    near = mesh_class(vertices, faces)
    far = mesh_class(vertices, faces, origin=(500000.0, 4649776.0, 30.0))

    def make(vertices, faces, **attributes):
        return SimpleNamespace(vertices=vertices, faces=faces, **attributes)

    restored = meshes.meshes_from_batch(meshes.batch_from_meshes([near, far], make))
    assert [mesh.origin for mesh in restored] == [near.origin, far.origin]
    assert not hasattr(meshes.batch_from_meshes([near], make), meshes.ORIGINS_ATTRIBUTE)

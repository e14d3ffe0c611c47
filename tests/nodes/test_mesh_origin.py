"""A mesh far from the origin keeps its place through the host's MESH."""

from __future__ import annotations

from types import SimpleNamespace

import torch


def test_the_origin_is_handed_on_between_our_nodes(pack):
    meshes, mesh_class = pack("nodes.mesh_adapters"), pack("nova3d_core.mesh").Mesh
    vertices, faces = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]])
    near = mesh_class(vertices, faces)
    far = mesh_class(vertices, faces, origin=(500000.0, 4649776.0, 30.0))

    def make(vertices, faces, **more):
        return SimpleNamespace(vertices=vertices, faces=faces, **more)

    again = meshes.meshes_from_batch(meshes.batch_from_meshes([near, far], make))
    assert [each.origin for each in again] == [near.origin, far.origin]
    assert not hasattr(meshes.batch_from_meshes([near], make), meshes.ORIGINS_ATTRIBUTE)

"""The visibility mask M: the paper's where nothing is hidden, 1 behind an occluder."""

from __future__ import annotations

from dataclasses import replace

import torch

from nova3d_core.cameras.cameras import Cameras, cameras_at
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.completion.visibility import best_cosines, overlapping_texels, unseen_weight
from nova3d_core.mesh import Mesh
from nova3d_core.rendering.raycast import RayCaster
from nova3d_core.texturing.texels import Texels, rasterise_texels


def camera(azimuth_deg: float = 0.0) -> Cameras:
    return cameras_at([azimuth_deg], [0.0], RigConfig(width_px=64, height_px=64))


def cosines_by_hand(texels: Texels, cameras: Cameras) -> torch.Tensor:
    """n . v of each texel and camera, without occlusion: (V, T)."""
    offset = cameras.positions[:, None] - texels.position
    return (texels.normal * torch.nn.functional.normalize(offset, dim=-1)).sum(dim=-1)


def smoothstep(cosine: torch.Tensor) -> torch.Tensor:
    x = (cosine / 0.5).clamp(0.0, 1.0)
    return 3.0 * x**2 - 2.0 * x**3


def test_sphere_with_one_camera(textured):
    texels = rasterise_texels(textured, (48, 96))
    found = unseen_weight(best_cosines(RayCaster.from_mesh(textured), texels, camera()))
    cosine = cosines_by_hand(texels, camera())[0]
    clear = cosine.abs() > 0.02  # the silhouette of the faceted sphere hides some texels
    expected = 1.0 - smoothstep(cosine)
    torch.testing.assert_close(found[clear], expected[clear], atol=1e-4, rtol=0.0)
    assert 0.3 < float(found.mean()) < 0.9


def test_the_best_of_several_cameras_counts(textured):
    texels = rasterise_texels(textured, (48, 96))
    cameras = cameras_at([0.0, 90.0], [0.0, 0.0], RigConfig(width_px=64, height_px=64))
    found = best_cosines(RayCaster.from_mesh(textured), texels, cameras)
    expected = cosines_by_hand(texels, cameras).amax(dim=0).clamp_min(0.0)
    clear = (cosines_by_hand(texels, cameras).abs() > 0.02).all(dim=0)
    torch.testing.assert_close(found[clear], expected[clear], atol=1e-6, rtol=0.0)


def test_behind_an_occluder_nothing_is_seen(textured):
    """A plate between camera and sphere: M = 1 although the cosine is 1."""
    corners = torch.tensor([[-0.1, -0.1, 0.6], [0.1, -0.1, 0.6], [0.1, 0.1, 0.6], [-0.1, 0.1, 0.6]])
    count = len(textured.vertices)
    plate = torch.tensor([[0, 1, 2], [0, 2, 3]]) + count
    both = Mesh(torch.cat([textured.vertices, corners]), torch.cat([textured.faces, plate]))
    texels = rasterise_texels(textured, (48, 96))
    free, hidden = (
        unseen_weight(best_cosines(RayCaster.from_mesh(mesh), texels, camera()))
        for mesh in (textured, both)
    )
    centre = (texels.position[:, :2].norm(dim=1) < 0.05) & (texels.position[:, 2] > 0)
    assert int(centre.sum()) > 3
    assert float(cosines_by_hand(texels, camera())[0][centre].min()) > 0.98
    assert bool((free[centre] == 0.0).all())
    assert bool((hidden[centre] == 1.0).all())


def test_outside_the_image_nothing_is_seen(textured):
    near = camera()
    intrinsics = near.intrinsics.clone()
    intrinsics[:, 0, 2] -= 64.0  # the whole sphere is left of the image
    texels = rasterise_texels(textured, (48, 96))
    cosines = best_cosines(
        RayCaster.from_mesh(textured), texels, replace(near, intrinsics=intrinsics)
    )
    assert float(cosines.max()) == 0.0
    assert bool((unseen_weight(cosines) == 1.0).all())


def test_texels_of_overlapping_charts_are_shared(textured):
    """A second globe uses the left half of the texture, too."""
    texels = rasterise_texels(textured, (48, 96))
    assert not bool(overlapping_texels(textured, texels).any())
    left = textured.faces[(textured.uv[:, 0] <= 0.5)[textured.faces].all(dim=1)]
    count = len(textured.vertices)
    both = replace(
        textured,
        vertices=torch.cat([textured.vertices, textured.vertices + 2.0]),
        faces=torch.cat([textured.faces, left + count]),
        uv=textured.uv.repeat(2, 1),
        normals=textured.normals.repeat(2, 1),
    )
    texels = rasterise_texels(both, (48, 96))
    shared = torch.zeros(48 * 96, dtype=torch.bool)
    shared[texels.index] = overlapping_texels(both, texels)
    expected = torch.zeros(48, 96, dtype=torch.bool)
    expected[:, :48] = True
    covered = torch.zeros(48 * 96, dtype=torch.bool)
    covered[texels.index] = True
    assert torch.equal(shared, expected.flatten() & covered)

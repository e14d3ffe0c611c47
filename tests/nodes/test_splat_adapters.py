"""Conversion to ComfyUI's SPLAT and back: frame, padding, harmonics, invalid batches."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch


@pytest.fixture(scope="module")
def adapters(pack):
    return pack("nodes.splat_adapters")


def splat_namespace(**tensors):
    return SimpleNamespace(**tensors)


@pytest.fixture(params=["own", "namespace", "host"])
def splat_class(request, adapters):
    """Classes of SPLAT: that of this pack for older ComfyUI, a stand-in, and ComfyUI's own."""
    if request.param == "host":
        types = request.getfixturevalue("host_types")
        if not hasattr(types, "SPLAT"):
            pytest.skip("this ComfyUI is older than SPLAT")
        return types.SPLAT
    return {"own": adapters.SplatBatch, "namespace": splat_namespace}[request.param]


@pytest.fixture
def random_splats(pack):
    """Makes N splats from a seed, of the pack's own class."""

    def make(count: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        return pack("nova3d_core.splats").Splats(
            positions=torch.randn(count, 3, generator=generator),
            scales=0.1 * torch.rand(count, 3, generator=generator) + 0.01,
            rotations=torch.randn(count, 4, generator=generator),
            opacities=torch.rand(count, generator=generator),
            colours=torch.rand(count, 3, generator=generator),
        )

    return make


def assert_same(actual, expected):
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(actual, name), value, atol=1e-6, rtol=1e-6)


def test_batch_has_the_frame_of_comfyui_and_returns(adapters, splat_class, random_splats):
    splats = random_splats(9)
    batch = adapters.batch_from_splats([splats], splat_class)
    x, y, z = splats.positions.unbind(dim=1)
    w, a, b, c = splats.rotations.unbind(dim=1)
    torch.testing.assert_close(batch.positions, torch.stack([x, -y, -z], dim=1)[None])
    torch.testing.assert_close(batch.rotations, torch.stack([-a, w, -c, b], dim=1)[None])
    assert torch.equal(batch.scales[0], splats.scales)
    assert torch.equal(batch.opacities[0, :, 0], splats.opacities)
    torch.testing.assert_close(batch.sh[0, :, 0] * 0.28209479177387814 + 0.5, splats.colours)
    assert batch.sh.shape == (1, 9, 1, 3)
    assert batch.counts is None
    (restored,) = adapters.splats_from_batch(batch)
    assert_same(restored, splats)


def test_the_quaternions_rotate_the_covariances_as_the_positions(adapters, random_splats, pack):
    """Points along a splat's axes are where the batch's own quaternions say."""
    splats = random_splats(50)
    batch = adapters.batch_from_splats([splats], splat_namespace)
    to_matrix = pack("nova3d_core.cameras.rotations").quaternion_to_matrix
    axes = to_matrix(splats.rotations)  # (N, 3, 3), columns are the axes in our world
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    torch.testing.assert_close(flip @ axes, to_matrix(batch.rotations[0]), atol=1e-6, rtol=0)


def test_items_of_different_lengths_are_padded(adapters, splat_class, random_splats):
    items = [random_splats(count, count) for count in (5, 9, 2)]
    batch = adapters.batch_from_splats(items, splat_class)
    assert batch.positions.shape == (3, 9, 3)
    assert batch.counts.tolist() == [5, 9, 2]
    assert float(batch.scales[0, 5:].abs().sum()) == 0.0
    for restored, original in zip(adapters.splats_from_batch(batch), items, strict=True):
        assert_same(restored, original)
    with pytest.raises(adapters.InputError, match="a batch of 3 items, expected one"):
        adapters.single_splats_from_socket(batch)


def test_half_precision_unnormalised_and_unbatched_tensors_are_read(adapters, random_splats):
    splats = random_splats(6)
    batch = adapters.batch_from_splats([splats], splat_namespace)
    given = {name: value[0].half() for name, value in vars(batch).items() if value is not None}
    given["rotations"] = 3.0 * given["rotations"]
    given["opacities"] = given["opacities"] * 0.0 + 1.0005
    (restored,) = adapters.splats_from_batch(splat_namespace(**given))
    torch.testing.assert_close(restored.positions, splats.positions, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(restored.rotations, splats.rotations, atol=2e-3, rtol=0)
    assert restored.positions.dtype == torch.float32
    assert float(restored.opacities.max()) == 1.0


def test_tensors_of_inference_mode_are_usable_in_autograd(adapters, random_splats):
    with torch.inference_mode():
        batch = adapters.batch_from_splats([random_splats(4)], splat_namespace)
    positions = adapters.single_splats_from_socket(batch).positions
    positions.requires_grad_()
    positions.square().sum().backward()
    assert positions.grad is not None


def test_flat_splats_are_read_as_comfyui_writes_them(adapters, random_splats):
    batch = adapters.batch_from_splats([random_splats(4)], splat_namespace)
    batch.scales[:, :, 2] = 0.0
    assert float(adapters.single_splats_from_socket(batch).scales.min()) == pytest.approx(1e-8)


def test_higher_harmonics_are_dropped_with_a_warning(adapters, random_splats, caplog):
    splats = random_splats(4)
    batch = adapters.batch_from_splats([splats], splat_namespace)
    batch.sh = torch.cat([batch.sh, torch.zeros(1, 4, 15, 3)], dim=2)
    assert_same(adapters.single_splats_from_socket(batch), splats)
    assert not caplog.records
    batch.sh[0, 0, 7] = 0.1
    assert_same(adapters.single_splats_from_socket(batch), splats)
    assert "above degree 0 are dropped" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: batch.positions.fill_(float("nan")), "12 values that are NaN"),
        (lambda batch: batch.scales.neg_(), "scales contain -"),
        (lambda batch: batch.rotations.zero_(), "quaternion of length zero"),
        (lambda batch: batch.opacities.add_(0.5), "opacities has values from"),
        (lambda batch: setattr(batch, "counts", torch.tensor([0])), "there are no splats"),
        (lambda batch: setattr(batch, "counts", torch.tensor([5])), r"counts of splats are \[5\]"),
        (lambda batch: setattr(batch, "counts", torch.tensor([1, 2])), "counts of splats are"),
        (lambda batch: setattr(batch, "positions", torch.zeros(1, 0, 3)), "have shape"),
        (lambda batch: setattr(batch, "scales", torch.zeros(1, 4, 1)), "scales of splats have sha"),
        (lambda batch: setattr(batch, "sh", torch.zeros(1, 4, 0, 3)), "empty batch"),
    ],
)
def test_invalid_batches_are_named(adapters, random_splats, change, message):
    batch = adapters.batch_from_splats([random_splats(4)], splat_namespace)
    change(batch)
    with pytest.raises(adapters.InputError, match=message) as caught:
        adapters.splats_from_batch(batch)
    assert "splats" in str(caught.value)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_other_types_are_named(adapters):
    with pytest.raises(adapters.InputError, match="splats is dict, expected ComfyUI's own SPLAT"):
        adapters.splats_from_batch({})


def test_own_batches_are_measured_by_the_cache(adapters, random_splats):
    batch = adapters.batch_from_splats([random_splats(4)], adapters.SplatBatch)
    assert sum(each.numel() for each in batch._comfy_cache_tensors()) == 4 * (3 + 3 + 4 + 1 + 3)


def test_memory_files_are_read_and_other_formats_named(adapters, host_types, random_splats, pack):
    from io import BytesIO

    splats = random_splats(5)
    axes = pack("nova3d_core.io.splats.axes")
    content = pack("nova3d_core.io.splats.ply").splats_to_ply(axes.splats_from_y_up(splats, "-Y"))
    assert_same(
        adapters.single_splats_from_socket(host_types.File3D(BytesIO(content), "ply")), splats
    )
    with pytest.raises(adapters.InputError, match="format 'spz', expected"):
        adapters.single_splats_from_socket(host_types.File3D(BytesIO(content), "spz"))


def test_meshes_and_splats_share_an_input(adapters, random_splats, pack, tmp_path):
    """SPLAT, MESH and files of both, on disk and in memory, each become what they are."""
    mesh = pack("nova3d_core.mesh").Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    splats = random_splats(5)
    mesh_path = pack("nova3d_core.io.mesh.write").write_mesh(mesh, tmp_path / "mesh.ply")
    write_splats = pack("nova3d_core.io.splats.files").write_splats
    paths = [write_splats(splats, tmp_path / name, up_axis="-Y") for name in ("a.ply", "a.splat")]

    def file3d(path, in_memory: bool):
        source = None if in_memory else str(path)
        return SimpleNamespace(
            get_source=lambda: source, get_bytes=path.read_bytes, format=path.suffix[1:]
        )

    batch = adapters.batch_from_splats([splats], splat_namespace)
    assert_same(adapters.mesh_or_splats_from_socket(batch), splats)
    for in_memory in (False, True):
        assert_same(adapters.mesh_or_splats_from_socket(file3d(paths[0], in_memory)), splats)
        coarse = adapters.mesh_or_splats_from_socket(file3d(paths[1], in_memory))
        assert len(coarse) == 5
        read = adapters.mesh_or_splats_from_socket(file3d(mesh_path, in_memory))
        torch.testing.assert_close(read.vertices, mesh.vertices)
    with pytest.raises(adapters.InputError, match="mesh is a batch of 2 items"):
        adapters.mesh_or_splats_from_socket(
            adapters.batch_from_splats([splats, splats], splat_namespace)
        )

"""Files of splats: round trips, an independent reader, and damaged files."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest
import torch

from nova3d_core.cameras.rotations import quaternion_to_matrix
from nova3d_core.conventions import Y_UP_ROTATIONS
from nova3d_core.errors import InputError
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.mesh.write import write_mesh
from nova3d_core.io.splats.files import (
    check_can_write_splats,
    contains_splats,
    read_splats,
    write_splats,
)
from nova3d_core.io.splats.ply import SH_C0
from nova3d_core.mesh import Mesh
from nova3d_core.splats import Splats


@pytest.fixture
def splats() -> Splats:
    generator = torch.Generator().manual_seed(0)
    return Splats(
        positions=torch.randn(200, 3, generator=generator),
        scales=torch.rand(200, 3, generator=generator) * 0.1 + 0.001,
        rotations=torch.randn(200, 4, generator=generator),
        opacities=torch.rand(200, generator=generator),
        colours=torch.rand(200, 3, generator=generator),
    )


def test_ply_round_trip(splats, tmp_path):
    path = write_splats(splats, tmp_path / "object.ply")
    for name, value in vars(read_splats(path)).items():
        torch.testing.assert_close(value, getattr(splats, name), atol=1e-6, rtol=2e-6)


def test_an_independent_reader_finds_the_values_of_3d_gaussian_splatting(splats, tmp_path):
    """Reads the rows by their layout: position, normal, harmonics, logit, log scales, w x y z."""
    content = write_splats(splats, tmp_path / "object.ply").read_bytes()
    header, _, body = content.partition(b"end_header\n")
    assert header.count(b"property float") == 17
    rows = np.array(list(struct.iter_unpack("<17f", body)))
    assert (rows[:, 3:6] == 0).all()
    np.testing.assert_allclose(rows[:, :3], splats.positions, atol=1e-6)
    np.testing.assert_allclose(rows[:, 6:9] * 0.28209479 + 0.5, splats.colours, atol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-rows[:, 9])), splats.opacities, atol=1e-6)
    np.testing.assert_allclose(np.exp(rows[:, 10:13]), splats.scales, atol=1e-6)
    np.testing.assert_allclose(rows[:, 13:], splats.rotations, atol=1e-6)


def test_dot_splat_keeps_values_within_their_8_bits(splats, tmp_path):
    path = write_splats(splats, tmp_path / "object.splat")
    assert path.stat().st_size == 32 * len(splats)
    read = read_splats(path)
    volume = read.scales.prod(dim=1) * splats.opacities.mean()
    assert volume.isfinite().all()
    order = torch.argsort(-splats.scales.prod(dim=1) * splats.opacities, stable=True)
    expected = splats[order]
    assert torch.equal(read.positions, expected.positions)
    assert torch.equal(read.scales, expected.scales)
    assert (read.colours - expected.colours).abs().max() <= 0.5 / 255 + 1e-6
    assert (read.opacities - expected.opacities).abs().max() <= 0.5 / 255 + 1e-6
    agreement = (read.rotations * expected.rotations).sum(dim=1)
    assert agreement.min() > 0.9999


def test_ascii_and_reordered_properties_are_read(splats, tmp_path):
    content = write_splats(splats, tmp_path / "object.ply").read_bytes()
    _, _, body = content.partition(b"end_header\n")
    rows = np.frombuffer(body, "<f4").reshape(-1, 17)
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    names += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
    order = np.random.default_rng(0).permutation(17)
    header = "ply\nformat ascii 1.0\nelement vertex 200\n"
    header += "".join(f"property float {names[i]}\n" for i in order) + "end_header\n"
    lines = "\n".join(" ".join(f"{value:.9g}" for value in row) for row in rows[:, order])
    path = tmp_path / "text.ply"
    path.write_text(header + lines + "\n", encoding="utf-8")
    read = read_splats(path)
    torch.testing.assert_close(read.positions, splats.positions)
    torch.testing.assert_close(read.scales, splats.scales)


def test_higher_harmonics_are_dropped_with_a_warning(splats, tmp_path, caplog):
    path = write_splats(splats, tmp_path / "object.ply")
    head, end, body = path.read_bytes().partition(b"property float opacity\n")
    rows = np.frombuffer(body.partition(b"end_header\n")[2], "<f4").reshape(-1, 17)
    rows = np.concatenate([rows[:, :9], np.ones((200, 9), "<f4"), rows[:, 9:]], axis=1)
    rest = b"".join(b"property float f_rest_%d\n" % i for i in range(9))
    tail = body.partition(b"end_header\n")
    path.write_bytes(head + rest + end + tail[0] + tail[1] + rows.astype("<f4").tobytes())
    torch.testing.assert_close(read_splats(path).colours, splats.colours)
    assert "harmonics above degree 0 are dropped" in caplog.text


def damaged_files(splats: Splats, folder) -> dict[str, tuple[str, bytes]]:
    """Name and content of damaged files, by the error that they raise."""
    ply = write_splats(splats, folder / "good.ply").read_bytes()
    dot = write_splats(splats, folder / "good.splat").read_bytes()
    nan = bytearray(ply)
    start = ply.index(b"end_header\n") + len(b"end_header\n")
    nan[start : start + 4] = struct.pack("<f", float("nan"))
    return {
        "splat positions has 1 values that are NaN": ("nan.ply", bytes(nan)),
        "too few values": ("cut.ply", ply[:-100]),
        "not a multiple of 32": ("cut.splat", dot[:-5]),
        "is empty": ("empty.ply", b""),
        "not a PLY file": ("other.ply", b"solid\n" * 20),
        "splat scales contain": ("zero.splat", dot[:12] + bytes(12) + dot[24:]),
        "unknown format": ("object.ksplat", dot),
    }


def test_damaged_files_are_errors_of_one_line_that_name_the_file(splats, tmp_path):
    for message, (name, content) in damaged_files(splats, tmp_path).items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            read_splats(path)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.ply: it does not exist"):
        read_splats(tmp_path / "gone.ply")


def test_meshes_and_point_clouds_are_named_as_such(tmp_path, make_sphere):
    sphere: Mesh = make_sphere(0.3)
    write_mesh(sphere, tmp_path / "mesh.ply")
    with pytest.raises(InputError, match="no Gaussian splats but a mesh"):
        read_splats(tmp_path / "mesh.ply")
    header = b"ply\nformat ascii 1.0\nelement vertex 1\n"
    header += b"property float x\nproperty float y\nproperty float z\nend_header\n0 0 0\n"
    (tmp_path / "points.ply").write_bytes(header)
    with pytest.raises(InputError, match="no Gaussian splats but a point cloud"):
        read_splats(tmp_path / "points.ply")


def test_only_own_files_are_replaced(splats, tmp_path):
    own = write_splats(splats, tmp_path / "object.ply")
    with pytest.raises(InputError, match="exists"):
        write_splats(splats, own)
    write_splats(splats, own, overwrite=True)
    foreign = tmp_path / "foreign.ply"
    foreign.write_bytes(own.read_bytes().replace(b"comment NOVA3D for ComfyUI\n", b""))
    with pytest.raises(InputError, match="NOVA3D did not write it"):
        write_splats(splats, foreign, overwrite=True)
    dot = write_splats(splats, tmp_path / "object.splat")
    before = dot.read_bytes()
    with pytest.raises(InputError, match="never replaced"):
        write_splats(splats[:5], dot, overwrite=True)
    for overwrite in (False, True):  # before the fit, too
        with pytest.raises(InputError, match="never replaced"):
            check_can_write_splats(dot, overwrite)
    assert dot.read_bytes() == before


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("opacities", torch.full((200,), 1.5), "opacities has values from 1.5"),
        ("scales", torch.zeros(200, 3), "scales contain 0"),
        ("rotations", torch.zeros(200, 4), "quaternion of length zero"),
        ("colours", torch.zeros(200, 4), "colours has shape"),
        ("positions", torch.full((200, 3), float("inf")), "NaN or infinite"),
    ],
)
def test_invalid_splats_are_rejected(splats, field, value, message):
    with pytest.raises(InputError, match=message):
        Splats(**{**vars(splats), field: value})


@pytest.mark.parametrize("up_axis", ["+Y", "-Y", "+Z", "-Z", "+X", "-X"])
def test_files_have_the_requested_up_axis(splats, tmp_path, up_axis):
    """Centres and axes of the splats are rotated as the vertices of a mesh are on reading."""
    path = write_splats(splats, tmp_path / "object.ply", up_axis=up_axis)
    for name, value in vars(read_splats(path, up_axis)).items():
        torch.testing.assert_close(value, getattr(splats, name), atol=2e-6, rtol=2e-6)
    raw = read_splats(path)
    rotation = torch.tensor(Y_UP_ROTATIONS[up_axis])
    torch.testing.assert_close(raw.positions @ rotation.T, splats.positions, atol=1e-6, rtol=0)
    turned = rotation @ quaternion_to_matrix(raw.rotations)
    torch.testing.assert_close(turned, quaternion_to_matrix(splats.rotations), atol=2e-6, rtol=0)


def with_floats(ply: bytes, first: int, *values: float) -> bytes:
    """A written .ply file with some floats of its first splat replaced."""
    start = ply.index(b"end_header\n") + len(b"end_header\n") + 4 * first
    return ply[:start] + struct.pack(f"<{len(values)}f", *values) + ply[start + 4 * len(values) :]


def test_trimesh_finds_the_same_values(splats, tmp_path):
    import trimesh

    path = write_splats(splats, tmp_path / "object.ply")
    cloud = trimesh.load(path)
    rows = cloud.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_allclose(cloud.vertices, splats.positions, atol=1e-6)
    columns = {
        "scales": np.exp(np.stack([rows[f"scale_{i}"] for i in range(3)], axis=-1)),
        "rotations": np.stack([rows[f"rot_{i}"] for i in range(4)], axis=-1),
        "opacities": 1.0 / (1.0 + np.exp(-rows["opacity"])),
        "colours": np.stack([rows[f"f_dc_{i}"] for i in range(3)], axis=-1) * SH_C0 + 0.5,
    }
    for name, values in columns.items():
        expected = getattr(splats, name).numpy()
        np.testing.assert_allclose(values.reshape(expected.shape), expected, atol=1e-6)


def test_big_endian_files_are_read(splats, tmp_path):
    path = write_splats(splats, tmp_path / "object.ply")
    head, end, body = path.read_bytes().partition(b"end_header\n")
    swapped = np.frombuffer(body, "<f4").astype(">f4").tobytes()
    path.write_bytes(head.replace(b"little", b"big") + end + swapped)
    assert torch.equal(read_splats(path).positions, splats.positions)


def test_splats_and_meshes_are_told_apart(splats, tmp_path, make_sphere):
    ply = write_splats(splats, tmp_path / "splats.ply")
    dot = write_splats(splats, tmp_path / "splats.splat")
    mesh = write_mesh(make_sphere(0.3), tmp_path / "mesh.ply")
    (tmp_path / "damaged.ply").write_bytes(ply.read_bytes()[:100])
    found = {path.name: contains_splats(path) for path in tmp_path.iterdir()}
    assert found == {
        "splats.ply": True, "splats.splat": True, "mesh.ply": False, "damaged.ply": False,
    }  # fmt: skip
    assert not contains_splats(tmp_path / "gone.ply")
    for path in (ply, dot):
        with pytest.raises(InputError, match="contains Gaussian splats, not a mesh") as caught:
            read_mesh(path)
        assert path.name in str(caught.value)
    assert len(read_mesh(mesh).faces) > 0


def implausible_files(ply: bytes) -> dict[str, bytes]:
    """Files of splats that cannot be used, by their error."""
    flat = ply.replace(b"property float scale_2\n", b"property float other0\n")
    packed = b"ply\nformat ascii 1.0\nelement vertex 1\nproperty uint packed_position\n"
    return {
        "its splats have no property scale_2": flat,
        "compressed splats": packed + b"end_header\n0\n",
        "positions reach 1e+20, expected at most 1e+12": with_floats(ply, 0, 1e20),
        "scales reach 5.54e+34": with_floats(ply, 10, 80.0),
        "scales has 1 values that are NaN or infinite": with_floats(ply, 10, 100.0),
        "colours reach 2.82e+29": with_floats(ply, 6, 1e30),
        "quaternion of length zero": with_floats(ply, 13, 0.0, 0.0, 0.0, 0.0),
        "opacities has 1 values that are NaN": with_floats(ply, 9, float("nan")),
    }


def test_implausible_splats_are_errors(splats, tmp_path):
    ply = write_splats(splats, tmp_path / "object.ply").read_bytes()
    for message, content in implausible_files(ply).items():
        path = tmp_path / "bad.ply"
        path.write_bytes(content)
        with pytest.raises(InputError, match=re.escape(message)):
            read_splats(path)


def test_extreme_logarithms_are_valid(splats, tmp_path):
    """Opacities of exactly 0 and 1, and splats that are flat along an axis."""
    path = write_splats(splats, tmp_path / "object.ply")
    infinite = float("inf")
    path.write_bytes(with_floats(path.read_bytes(), 9, infinite, -infinite))
    read = read_splats(path)
    assert float(read.opacities[0]) == 1.0
    assert 0.0 < float(read.scales[0, 0]) < 1e-7


def test_files_beyond_the_memory_name_how_many_splats_fit(splats, tmp_path, monkeypatch):
    """10 million splats in a file that is not read: it is sparse."""
    path = write_splats(splats, tmp_path / "large.ply")
    content = path.read_bytes().replace(b"vertex 200\n", b"vertex 10000000\n")
    path.write_bytes(content)
    with path.open("r+b") as stream:
        stream.truncate(content.index(b"end_header\n") + len(b"end_header\n") + 10_000_000 * 68)
    monkeypatch.setattr("nova3d_core.io.splats.memory.available_bytes", lambda: 2**30)
    message = r"10,000,000 splats need 2\.7 GiB .* only 1\.0 GiB are free.* to 3,728,"
    with pytest.raises(InputError, match=message):
        read_splats(path)
    dot = write_splats(splats, tmp_path / "small.splat")
    monkeypatch.setattr("nova3d_core.io.splats.memory.available_bytes", lambda: 200 * 32)
    with pytest.raises(InputError, match=r"its 200 splats need"):
        read_splats(dot)


def test_unicode_paths(splats, tmp_path):
    path = write_splats(splats, tmp_path / "模型 é" / "ступа 🗿.ply")
    assert len(read_splats(path)) == 200


def test_failed_writes_leave_nothing(splats, tmp_path, monkeypatch):
    own = write_splats(splats, tmp_path / "object.ply")
    before = own.read_bytes()

    def disk_full(self, content):
        with self.open("wb") as stream:
            stream.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", disk_full)
    with pytest.raises(InputError, match="no space left"):
        write_splats(splats[:50], own, overwrite=True)
    with pytest.raises(InputError, match="no space left"):
        write_splats(splats, tmp_path / "folder" / "new.splat")
    assert own.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["object.ply"]


def test_normalised_splats_fill_the_unit_cube_without_floaters(splats):
    moved = splats.transformed(3.0, torch.tensor([5.0, -2.0, 1.0]))
    torch.testing.assert_close(moved.scales, 3.0 * splats.scales)
    many = Splats(**{name: value.repeat(10, *[1] * (value.ndim - 1)) for name, value in
                     vars(moved).items()})  # fmt: skip
    many.positions[0] = 1e4
    unit = many.normalised()
    low, high = unit.bounds
    torch.testing.assert_close(low, -high, atol=1e-5, rtol=0)
    assert float((high - low).max()) == pytest.approx(1.0, abs=1e-5)
    factor = float(unit.scales[5, 0] / many.scales[5, 0])
    torch.testing.assert_close(
        unit.positions[5] - unit.positions[6],
        factor * (many.positions[5] - many.positions[6]),
        atol=1e-5,
        rtol=0,
    )
    with pytest.raises(InputError, match=r"no extent.*Check the file"):
        Splats(**{**vars(splats), "positions": torch.ones(200, 3)}).normalised()

"""render-dataset: bad meshes, resuming, settings, workers, Ray."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nova3d_core.errors import Cancelled, InputError, StageError
from nova3d_core.io.mesh.write import write_mesh
from nova3d_core.progress import Progress
from nova3d_core.training.data.config import DatasetConfig, ImageConfig
from nova3d_core.training.data.dataset_lock import SETTINGS
from nova3d_core.training.data.mesh_sources import ProceduralObjects, read_mesh_list
from nova3d_core.training.data.render_dataset import SKIPPED, render_dataset
from nova3d_core.training.data.shards import ShardDataset
from nova3d_core.training.data.workers import task_runner
from nova3d_core.training.procedural import procedural_object

CONFIG = DatasetConfig(image=ImageConfig(size_px=16, views=3, supersample=1), objects_per_shard=4)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def meshes(tmp_path_factory) -> Path:
    """A list of good meshes and every kind of bad one."""
    folder = tmp_path_factory.mktemp("meshes")
    good = procedural_object(1, "car", 20)
    write_mesh(good, folder / "good.glb")
    write_mesh(good, folder / "sub.ply")
    (folder / "empty.obj").write_bytes(b"")
    (folder / "noise.glb").write_bytes(np.random.default_rng(0).bytes(3000))
    (folder / "cut.glb").write_bytes((folder / "good.glb").read_bytes()[:2000])
    (folder / "points.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    (folder / "nan.obj").write_text("v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (folder / "grey.obj").write_text(
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 3 1 4\n"
    )
    # an edge with three faces, and a flipped face
    (folder / "fan.obj").write_text(
        "v 0 0 0\nv 0 1 0\nv 1 0 0\nv -1 0 .3\nv .2 0 1\nf 1 2 3\nf 1 2 4\nf 1 2 5\n"
    )
    (folder / "floor.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 0 1\nf 1 2 3\n")
    (folder / "image.png").write_bytes(b"\x89PNG")
    names = sorted(path.name for path in folder.iterdir())
    lines = ["# a comment", "", *names, "missing.glb"]
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    return folder / "list.txt"


def test_skips_and_lists_bad_meshes_and_renders_the_rest(meshes, tmp_path):
    done = render_dataset(read_mesh_list(meshes), tmp_path / "set", CONFIG)
    reasons = {Path(each["source"]).name: each["reason"] for each in done.skipped}
    assert set(reasons) == {
        "empty.obj", "noise.glb", "cut.glb", "points.obj", "nan.obj", "floor.obj", "image.png",
        "missing.glb",
    }  # fmt: skip
    assert all(name in reason for name, reason in reasons.items())
    assert "is empty" in reasons["empty.obj"] and "does not exist" in reasons["missing.glb"]
    assert "unknown mesh format" in reasons["image.png"]
    assert "front view is empty" in reasons["floor.obj"]
    assert json.loads((tmp_path / "set" / SKIPPED).read_text()) == done.skipped
    assert done.objects == 4 and done.grey == 2 and done.open == 1
    items = {item["key"]: item for item in ShardDataset(tmp_path / "set", epochs=1)}
    assert len(items) == 4
    assert all(item["mask"].any(dim=(1, 2)).all() for item in items.values())


def test_skips_large_meshes_early(meshes, tmp_path):
    (tmp_path / "one.txt").write_text(str(meshes.parent / "good.glb"))
    source = read_mesh_list(tmp_path / "one.txt")
    few = DatasetConfig(image=CONFIG.image, max_faces=100)
    done = render_dataset(source, tmp_path / "faces", few)
    assert "faces, above the limit of 100" in done.skipped[0]["reason"] and done.objects == 0
    small = DatasetConfig(image=CONFIG.image, max_mesh_mib=0.001)
    done = render_dataset(source, tmp_path / "mib", small)
    assert "above the limit of 0.001" in done.skipped[0]["reason"]


def test_yaws_are_random_and_repeat_with_the_seed(meshes, tmp_path):
    (tmp_path / "one.txt").write_text(str(meshes.parent / "good.glb"))
    config = DatasetConfig(image=CONFIG.image, yaws_per_mesh=3)
    source = read_mesh_list(tmp_path / "one.txt", 3)
    for name in ("a", "b"):
        assert render_dataset(source, tmp_path / name, config).objects == 3
    first, again = (
        list(ShardDataset(tmp_path / name, epochs=1, shuffle=False)) for name in ("a", "b")
    )
    assert all(torch.equal(x["colour"], y["colour"]) for x, y in zip(first, again, strict=True))
    assert not torch.equal(first[0]["mask"], first[1]["mask"])
    assert all(torch.allclose(each["azimuth_deg"], torch.arange(3) * 120.0) for each in first)


def test_line_may_give_the_up_axis(meshes, tmp_path):
    car = str(meshes.parent / "good.glb")
    (tmp_path / "list.txt").write_text(f"{car}\n{car}\t+Z\n{car}\t+Y\n")
    done = render_dataset(read_mesh_list(tmp_path / "list.txt"), tmp_path / "set", CONFIG)
    assert done.objects == 3 and done.skipped == []
    heights = [
        int((item["mask"][0].sum(dim=1) > 0).sum())
        for item in ShardDataset(tmp_path / "set", epochs=1, shuffle=False)
    ]
    assert heights[1] > 1.3 * heights[0]  # a car on its end is taller


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "does not exist"), (b"", "contains no mesh"), (b"\xff\xfe\x00\xd8", "cannot be read")],
)
def test_rejects_bad_lists(tmp_path, content, reason):
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        read_mesh_list(path)


def cancel_after(events: int) -> Progress:
    seen = []
    return Progress(seen.append, lambda: len(seen) > events)


def test_resumed_run_gives_the_same_shards(tmp_path):
    full = render_dataset(ProceduralObjects(11), tmp_path / "full", CONFIG)
    assert (full.shards, full.kept, full.objects) == (3, 0, 11)
    folder = tmp_path / "stopped"
    with pytest.raises(Cancelled):
        render_dataset(ProceduralObjects(11), folder, CONFIG, progress=cancel_after(2))
    assert sorted(contents(folder)) == [SETTINGS, "shard-000000.tar"]
    kept = (folder / "shard-000000.tar").stat()
    done = render_dataset(ProceduralObjects(11), folder, CONFIG)
    assert (done.kept, done.objects) == (1, 11)
    assert (folder / "shard-000000.tar").stat().st_mtime_ns == kept.st_mtime_ns
    assert contents(folder) == contents(tmp_path / "full")


def test_renders_a_damaged_shard_again(tmp_path, caplog):
    folder = tmp_path / "set"
    render_dataset(ProceduralObjects(8), folder, CONFIG)
    before = contents(folder)
    path = folder / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    assert render_dataset(ProceduralObjects(8), folder, CONFIG).kept == 1
    assert "shard-000001.tar" in caplog.text and "rendered again" in caplog.text
    assert contents(folder) == before


def test_rejects_other_settings_and_names_them(tmp_path):
    folder = tmp_path / "set"
    render_dataset(ProceduralObjects(4), folder, CONFIG)
    before = contents(folder)
    other = DatasetConfig(seed=3, image=CONFIG.image, objects_per_shard=4)
    with pytest.raises(InputError, match="seed was 0, now 3"):
        render_dataset(ProceduralObjects(4), folder, other)
    with pytest.raises(InputError, match="objects was 4, now 5"):
        render_dataset(ProceduralObjects(5), folder, CONFIG)
    assert contents(folder) == before
    assert render_dataset(ProceduralObjects(4), folder, other, overwrite=True).kept == 0
    assert contents(folder)["shard-000000.tar"] != before["shard-000000.tar"]


def test_leaves_a_folder_of_other_files_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is not empty"):
            render_dataset(ProceduralObjects(1), tmp_path, CONFIG, overwrite=overwrite)
    with pytest.raises(InputError, match="is a file"):
        render_dataset(ProceduralObjects(1), tmp_path / "thesis.txt", CONFIG)
    assert contents(tmp_path) == {"thesis.txt": b"dear"}


@pytest.mark.slow
def test_two_workers_give_the_same_shards(tmp_path, meshes):
    sources = {"procedural": ProceduralObjects(13), "meshes": read_mesh_list(meshes)}
    for name, source in sources.items():
        render_dataset(source, tmp_path / name, CONFIG)
        render_dataset(source, tmp_path / f"{name}2", CONFIG, workers=2)
        assert contents(tmp_path / name) == contents(tmp_path / f"{name}2")


def _die(number: int) -> int:
    import os

    if number == 2:
        os._exit(1)
    return number


@pytest.mark.slow
def test_reports_a_worker_that_dies():
    with pytest.raises(StageError, match="a worker process died"), task_runner(2) as run:
        list(run(_die, range(5)))


@pytest.mark.slow
def test_local_ray_gives_the_same_shards(tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: it is heavy, and optional")
    render_dataset(ProceduralObjects(9), tmp_path / "here", CONFIG)
    render_dataset(ProceduralObjects(9), tmp_path / "ray", CONFIG, workers=2, ray="local")
    assert contents(tmp_path / "here") == contents(tmp_path / "ray")


def test_reports_an_unreachable_cluster_early(tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: it is heavy, and optional")
    with pytest.raises(InputError, match=r"no Ray cluster at '127\.0\.0\.1:9'"):
        render_dataset(ProceduralObjects(1), tmp_path / "set", CONFIG, ray="127.0.0.1:9")
    assert not (tmp_path / "set").exists()


def test_reports_missing_ray(monkeypatch, tmp_path):
    import sys

    from nova3d_core.errors import MissingDependencyError

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match="'ray'"):
        render_dataset(ProceduralObjects(1), tmp_path / "set", CONFIG, ray="auto")
    assert not (tmp_path / "set").exists()

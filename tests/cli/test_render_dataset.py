"""`render-dataset` as users run it: what it says, Ctrl-C, a full disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from nova3d_core.training.data.shards import ShardDataset, read_shard

from .conftest import KNIGHT, ROOT
from .test_interrupts import STOPPED, interrupt_at

SMALL = ["--image.size-px", "16", "--image.views", "2", "--image.supersample", "1"]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_list_and_procedural_objects_are_rendered_and_summed_up(nova3d, tmp_path):
    (tmp_path / "grey.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "list.txt").write_text(f"{KNIGHT}\ngrey.obj\nmissing.glb\n")
    done = nova3d("render-dataset", tmp_path / "list.txt", "-o", tmp_path / "set", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "2 objects in 1 shards" in done.stdout
    assert "1 had neither texture nor vertex colours: they are grey" in done.stdout
    assert "2 are open or not manifold" in done.stdout
    assert "1 were skipped" in done.stdout and "missing.glb does not exist" in done.stderr
    again = nova3d("render-dataset", tmp_path / "list.txt", "-o", tmp_path / "set", *SMALL)
    assert "1 of them kept" in again.stdout
    words = ["--procedural", "3", "--seed", "5", "--per-shard", "2", "--json"]
    done = nova3d("render-dataset", "-o", tmp_path / "made", *words, *SMALL)
    said = json.loads(done.stdout)
    assert said["objects"] == 3 and said["shards"] == 2 and said["skipped"] == []
    assert len(ShardDataset(tmp_path / "made")) == 3


@pytest.mark.parametrize("words", [[], ["list.txt", "--procedural", "3"]])
def test_one_source_has_to_be_named(nova3d, tmp_path, words):
    done = nova3d("render-dataset", *words, "-o", tmp_path / "set")
    assert done.returncode == 2 and "not both" in done.stderr
    assert not (tmp_path / "set").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to one process")
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_leaves_whole_shards_and_no_worker_and_it_can_go_on(nova3d, tmp_path, workers):
    folder = tmp_path / "set"
    size = ["--procedural", "60", "--per-shard", "10", "--workers", str(workers)]
    words = ["render-dataset", "-o", folder, *size]
    code, said, children = interrupt_at("rendering objects", words)
    assert code in STOPPED, said
    assert "stopped: nothing half-written was left." in said and "Traceback" not in said
    assert psutil.wait_procs(children, timeout=5)[1] == []
    left = names_in(folder)
    assert all(name == "dataset.json" or name.endswith(".tar") for name in left), left
    assert all(read_shard(path, strict=True) for path in folder.glob("*.tar"))
    done = nova3d(*words)
    assert done.returncode == 0 and len(ShardDataset(folder)) == 60


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
from nova3d_core.cli.main import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name == "nt", reason="limits the size of files")
def test_a_full_disk_is_told_and_nothing_half_written_is_left(nova3d, tmp_path):
    folder = tmp_path / "set"
    size = ["--procedural", "12", "--per-shard", "6", *SMALL]
    words = [str(word) for word in ["render-dataset", "-o", folder, *size]]
    done = subprocess.run(
        [sys.executable, "-c", FULL, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "shard-000000.tar could not be written: no space left" in done.stderr
    assert names_in(folder) == ["dataset.json"]
    assert nova3d(*words).returncode == 0
    assert len(ShardDataset(folder)) == 12

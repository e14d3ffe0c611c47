"""`render-dataset` as users run it: its summary, Ctrl-C, a full disk."""

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


def test_renders_a_list_and_procedural_objects_with_a_summary(nova3d, tmp_path):
    (tmp_path / "grey.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "list.txt").write_text(f"{KNIGHT}\ngrey.obj\nmissing.glb\n")
    result = nova3d("render-dataset", tmp_path / "list.txt", "-o", tmp_path / "set", *SMALL)
    assert result.returncode == 0, result.stderr
    assert "Objects: 2, shards: 1" in result.stdout
    assert "Rendered grey, without texture or vertex colours: 1" in result.stdout
    assert "Rendered double-sided, not closed manifolds: 2" in result.stdout
    assert "Skipped: 1, see" in result.stdout and "missing.glb does not exist" in result.stderr
    again = nova3d("render-dataset", tmp_path / "list.txt", "-o", tmp_path / "set", *SMALL)
    assert "(1 from an earlier run)" in again.stdout
    words = ["--procedural", "3", "--seed", "5", "--objects-per-shard", "2", "--json"]
    result = nova3d("render-dataset", "-o", tmp_path / "made", *words, *SMALL)
    document = json.loads(result.stdout)
    assert document["objects"] == 3 and document["shards"] == 2 and document["skipped"] == []
    assert len(ShardDataset(tmp_path / "made")) == 3


@pytest.mark.parametrize("words", [[], ["list.txt", "--procedural", "3"]])
def test_requires_exactly_one_source(nova3d, tmp_path, words):
    result = nova3d("render-dataset", *words, "-o", tmp_path / "set")
    assert result.returncode == 2 and "not both" in result.stderr
    assert not (tmp_path / "set").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to one process")
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_leaves_complete_shards_and_no_worker_and_can_be_resumed(nova3d, tmp_path, workers):
    folder = tmp_path / "set"
    size = ["--procedural", "60", "--objects-per-shard", "10", "--workers", str(workers)]
    words = ["render-dataset", "-o", folder, *size]
    code, stderr, children = interrupt_at("rendering objects", words)
    assert code in STOPPED, stderr
    assert "stopped: no incomplete files were left behind." in stderr
    assert "Traceback" not in stderr
    assert psutil.wait_procs(children, timeout=5)[1] == []
    names = names_in(folder)
    assert all(name == "dataset.json" or name.endswith(".tar") for name in names), names
    assert all(read_shard(path, strict=True) for path in folder.glob("*.tar"))
    result = nova3d(*words)
    assert result.returncode == 0 and len(ShardDataset(folder)) == 60


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
from nova3d_core.cli.main import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name == "nt", reason="limits the size of files")
def test_full_disk_is_reported_and_leaves_no_incomplete_file(nova3d, tmp_path):
    folder = tmp_path / "set"
    size = ["--procedural", "12", "--objects-per-shard", "6", *SMALL]
    words = [str(word) for word in ["render-dataset", "-o", folder, *size]]
    result = subprocess.run(
        [sys.executable, "-c", FULL, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2, result.stderr
    assert "shard-000000.tar could not be written: no space left" in result.stderr
    assert names_in(folder) == ["dataset.json"]
    assert nova3d(*words).returncode == 0
    assert len(ShardDataset(folder)) == 12

"""What the registry gets: only what users need, and nothing that its security scan flags unseen."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]

SHIPPED_NAMES = {
    ".comfyignore",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "__init__.py",
    "locales",
    "nodes",
    "nova3d_core",
    "pyproject.toml",
    "requirements-train.txt",
    "requirements.txt",
    "subgraphs",
    "web",
    "workflows",
}
"""Files and folders at the top of what ships."""

FLAGGED = {
    "eval": r"(?<![\w.])eval\s*\(",
    "exec": r"(?<![\w.])exec\s*\(",
    "compile": r"(?<![\w.])compile\s*\(",
    "__import__": r"__import__",
    "os.system": r"\bos\.(system|popen)\b",
    "subprocess": r"\bsubprocess\b",
    "socket": r"\b(import|from) socket\b|\bsocket\.",
    "urllib": r"\burllib\b|\bhttp\.client\b|\brequests\b(?=\.)",
    "base64": r"base64",
    "pickle": r"\b(import|from) (pickle|dill|marshal|shelve)\b|\b(pickle|dill|marshal)\.\w",
    "connect": r"\.connect\s*\(",
    "bind": r"\.bind\s*\(",
    "ctypes": r"\bctypes\b",
}
"""What the scan looks for, in code and comments alike: words that malware needs, too."""

_DEATH = "asks the kernel (prctl) to end a worker process with its parent"
ALLOWED: dict[tuple[str, str], str] = {
    ("nova3d_core/compute/host_memory.py", "ctypes"): "gives freed memory back (malloc_trim)",
    ("nova3d_core/io/files/renames.py", "ctypes"): "renames without replacing (renameat2)",
    ("nova3d_core/io/mesh/gltf/buffers.py", "base64"): "glTF embeds buffers as base64 data URIs",
    (
        "nova3d_core/io/mesh/gltf/buffers.py",
        "urllib",
    ): "glTF percent-encodes file names; no network",
    ("nova3d_core/meshing/unwrap/unwrap.py", "subprocess"): "xatlas can crash or hang: own process",
    (
        "nova3d_core/meshing/unwrap/worker.py",
        "subprocess",
    ): "watches its parent on systems without prctl",
    ("nova3d_core/meshing/unwrap/worker.py", "ctypes"): _DEATH,
    ("nova3d_core/training/data/workers.py", "ctypes"): _DEATH,
    ("nova3d_core/training/data/workers.py", "socket"): "asks whether the user's Ray cluster is up",
    ("nova3d_core/weights/files/read.py", "pickle"): "only the exception that torch.load raises",
}
"""Why each finding must stay."""


@cache
def shipped_files() -> tuple[Path, ...]:
    """Tracked files that .comfyignore does not leave out, relative to the repository."""

    def listed(*options: str) -> set[str]:
        words = ["git", "ls-files", "-z", *options]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
        return set(done.stdout.decode().split("\0")) - {""}

    try:
        left_out = listed("-c", "-i", "--exclude-from=.comfyignore")
        return tuple(sorted(Path(name) for name in listed() - left_out))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git does not answer here")


def test_only_what_users_need_ships():
    assert {path.parts[0] for path in shipped_files()} == SHIPPED_NAMES
    assert Path("nova3d_core/training/loop.py") in shipped_files()  # `train` is for users
    size = sum((ROOT / path).stat().st_size for path in shipped_files())
    assert size < 20 * 2**20


def test_every_flagged_word_that_ships_has_its_reason():
    found = set()
    for path in shipped_files():
        if path.suffix in (".py", ".js"):
            text = (ROOT / path).read_text(encoding="utf-8")
            found |= {
                (path.as_posix(), word)
                for word, pattern in FLAGGED.items()
                if re.search(pattern, text)
            }
    assert sorted(found - set(ALLOWED)) == [], "avoid these, or allow each with a reason"
    assert sorted(set(ALLOWED) - found) == [], "these are gone: take them off the list"
    assert all(len(reason.split()) > 3 for reason in ALLOWED.values())


def test_python_files_that_ship_print_on_every_console():
    """Windows' western code page has no letters for some symbols of prose."""
    for path in shipped_files():
        if path.suffix == ".py":
            (ROOT / path).read_text(encoding="utf-8").encode("cp1252")


def test_bandit_finds_nothing_of_medium_severity():
    pytest.importorskip("bandit")
    import sys

    words = [sys.executable, "-m", "bandit", "-q", "-ll", "-r"]
    places = ["nodes", "nova3d_core", "__init__.py"]
    done = subprocess.run([*words, *places], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_ci_uses_actions_pinned_by_commit():
    """A tag of an action can be moved to other code; its version stands in a comment."""
    actions = [
        line.strip()
        for path in WORKFLOWS
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(- )?uses:", line)
    ]
    assert len(actions) >= 6
    pinned = re.compile(r"(- )?uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # \S.*")
    assert [action for action in actions if not pinned.fullmatch(action)] == []


def test_only_a_tag_publishes():
    secret = [path for path in WORKFLOWS if "secrets." in path.read_text(encoding="utf-8")]
    assert [path.name for path in secret] == ["publish.yml"]
    document = yaml.load(secret[0].read_text(encoding="utf-8"), yaml.BaseLoader)
    assert document["on"] == {"push": {"tags": ["v*"]}}
    assert document["permissions"] == {"contents": "read"}


@pytest.mark.parametrize(("tag", "status"), [("v{}", 0), ("v9.9.9", 1), ("v{}.1", 1), ("v", 1)])
@pytest.mark.skipif(shutil.which("bash") is None, reason="the workflow runs in bash")
def test_publishing_needs_the_tag_of_the_version(tag, status):
    steps = yaml.safe_load((ROOT / ".github/workflows/publish.yml").read_text(encoding="utf-8"))
    (command,) = [step["run"] for step in steps["jobs"]["publish"]["steps"] if "run" in step]
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)[
        1
    ]
    environment = {**os.environ, "GITHUB_REF_NAME": tag.format(version)}
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, check=False)
    assert done.returncode == status

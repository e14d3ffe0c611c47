"""A missing or broken package is one line on the node, with the command that installs it."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from .conftest import ROOT


@pytest.fixture
def run(pack):
    """Runs a decorated `execute`; returns whether it was called, and the error."""
    pack("nodes.requirements").missing_packages.cache_clear()

    def call(work=lambda: None) -> tuple[bool, str]:
        called = []

        def execute(cls):
            called.append(True)
            work()
            return SimpleNamespace(ui=None)

        try:
            pack("nodes.runtime").with_warnings(execute)(int)
        except RuntimeError as error:
            return bool(called), str(error)
        return bool(called), ""

    yield call
    pack("nodes.requirements").missing_packages.cache_clear()


def test_complete_install_runs(run):
    assert run() == (True, "")


@pytest.mark.parametrize(
    ("modules", "named"),
    [
        (["trimesh"], "package is not installed: trimesh."),
        (["skimage"], "package is not installed: scikit-image."),
        (["scipy", "PIL"], "packages are not installed: pillow, scipy."),
    ],
)
def test_missing_package_is_named_before_the_work(run, monkeypatch, modules, named):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    called, message = run()
    assert not called
    assert named in message
    assert "\n" not in message


def test_broken_package_is_one_line(run):
    def work():
        raise ImportError("DLL load failed\n while importing _ufuncs")

    called, message = run(work)
    assert called
    assert message.startswith(
        "a Python package cannot be imported: DLL load failed while importing _ufuncs. Install"
    )


def test_command_names_a_file_that_installs_the_packages(run, monkeypatch, pack):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    _, message = run()
    command = re.search(r'Install it with: "(.+)" -m pip install -r "(.+)" Then', message)
    python, path = command.groups()
    assert subprocess.run([python, "-c", ""], check=False).returncode == 0
    assert path == str(ROOT / "requirements.txt")
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = {re.split(r"[<>=]", line)[0] for line in lines if line and line[0] != "#"}
    assert set(pack("nodes.requirements").PACKAGES.values()) <= required

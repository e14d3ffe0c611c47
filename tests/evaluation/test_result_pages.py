"""docs/results and the summary in docs/evaluation.md are generated from JSON."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"


@pytest.fixture(scope="module")
def results():
    """The module benchmarks/results.py."""
    spec = importlib.util.spec_from_file_location("results", ROOT / "benchmarks" / "results.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_page_is_generated_from_its_json(results, path):
    page = results.load_page(path)
    assert path.with_suffix(".md").read_bytes() == results.markdown_page(page, path.name).encode()
    assert path.read_bytes() == results.json_text(page).encode()


def test_every_page_has_a_json():
    pages, documents = ({p.stem for p in RESULTS.glob(f"*{s}")} for s in (".md", ".json"))
    assert pages == documents


def test_evaluation_page_contains_the_summary_table(results):
    table = results.markdown_table(results.load_page(RESULTS / "summary.json").tables[0])
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert table in text
    assert len(text.splitlines()) <= 150


def test_links_between_documents_resolve():
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("mailto:"):
                assert (page.parent / target).exists(), (page.name, target)


def test_paths_in_documents_exist():
    """Paths that start with a folder of the repository, and Python files of the core."""
    folders = "nova3d_core|nodes|tests|benchmarks|docs|workflows|web|locales"
    checked = 0
    for page in [
        *ROOT.glob("*.md"),
        *(p for f in folders.split("|") for p in (ROOT / f).rglob("*.md")),
    ]:
        text = page.read_text(encoding="utf-8")
        paths = re.findall(rf"(?<![\w/.-])(?:{folders})/[\w./-]*\w", text)
        paths += re.findall(r"`([a-z_]\w*/[\w/]+\.py)`", text)
        checked += len(paths)
        for path in paths:
            places = (ROOT / path, ROOT / "nova3d_core" / path, page.parent / path)
            assert any(place.exists() for place in places), (page.name, path)
    assert checked > 50


def test_architecture_page_lists_every_folder():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    core = ROOT / "nova3d_core"
    for folder in (path.parent for path in core.rglob("__init__.py") if path.parent != core):
        names = (f"`{folder.relative_to(core).as_posix()}/`", f"`{folder.name}/`")
        assert any(name in text for name in names), folder.relative_to(core)


def test_saved_page_loads_unchanged(results, tmp_path):
    rows = [["a", 1.25, None, True, [1, 0.5]], ["b", 2.0, "n/a", False, [2, 0.25]]]
    columns = [("", ""), ("x", ".1f"), ("y", ".2f"), ("z", ""), ("pair", "d / .2f")]
    page = results.ResultPage("Title", "Summary.", [results.Table(columns, rows, notes=["n"])])
    text = results.save_page(tmp_path, "name", page).read_text(encoding="utf-8")
    assert "| a | 1.2 | - | yes | 1 / 0.50 |\n| b | 2.0 | n/a | no | 2 / 0.25 |\n\n- n\n" in text
    loaded = results.load_page(tmp_path / "name.json")
    assert results.json_text(loaded) == results.json_text(page)
    assert results.outdated_pages(tmp_path) == []
    (tmp_path / "name.md").write_text("edited", encoding="utf-8")
    assert results.outdated_pages(tmp_path) == [tmp_path / "name.md"]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_every_benchmark_has_a_help_text(path):
    command = [sys.executable, str(path), "--help"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}  # as `dev.py bench` sets it
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-1000:]
    assert path.stem == "measure" or "--help" in result.stdout

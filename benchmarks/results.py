"""Result pages: writes docs/results/*.md from the JSON files next to them.

    python dev.py bench results [--check]

Every benchmark builds a `ResultPage` and saves it with `save_page`, as NAME.json and NAME.md. This
script rewrites all pages of a folder from their JSON, for example after a change of the layout.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tyro

from nova3d_core.io.files.atomic import atomic_file

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
WIDTH = 120
"""Line length of paragraphs."""

Cell = float | int | bool | str | None | list
"""A value, or a list of values that share the cell, separated by " / "."""


@dataclass(frozen=True)
class Table:
    """A table of results."""

    columns: Sequence[tuple[str, str]]
    """Heading and format specification of each column, such as ".3f"; "" for text."""
    rows: Sequence[Sequence[Cell]]
    """Unrounded values; None is shown as "-"."""
    title: str = ""
    text: str = ""
    """Paragraph above the table."""
    notes: Sequence[str] = ()
    """List below the table."""


@dataclass(frozen=True)
class ResultPage:
    """Tables of one subject, with everything needed to interpret and repeat them."""

    title: str
    summary: str
    """Markdown paragraph: what was measured."""
    tables: Sequence[Table]
    command: str = ""
    """Command that repeats the measurement."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    """See `measure.machine`."""
    date: str = ""
    """Date of the measurement, ISO 8601."""
    commit: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Raw values, kept in the JSON only."""

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ResultPage:
        """A page from its JSON document."""
        tables = [Table(**table) for table in document["tables"]]
        return cls(**{**document, "tables": tables})


def markdown_page(page: ResultPage, source: str) -> str:
    """The page in Markdown; `source` is the name of its JSON file."""
    blocks = [f"# {page.title}", _wrap(page.summary)]
    if page.command:
        blocks.append(f"```\n{page.command}\n```")
    blocks.append(_provenance(page, source))
    for table in page.tables:
        if table.title:
            blocks.append(f"## {table.title}")
        if table.text:
            blocks.append(_wrap(table.text))
        blocks.append(markdown_table(table))
        if table.notes:
            blocks.append("\n".join(_wrap(f"- {note}", indent="  ") for note in table.notes))
    return "\n\n".join(blocks) + "\n"


def markdown_table(table: Table) -> str:
    """A Markdown table; columns of numbers are aligned to the right."""
    specs = [spec for _, spec in table.columns]
    lines = [[heading for heading, _ in table.columns]]
    lines.append(["---:" if spec else "---" for spec in specs])
    lines += [[_cell(*pair) for pair in zip(row, specs, strict=True)] for row in table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def save_page(folder: Path, name: str, page: ResultPage) -> Path:
    """Writes NAME.json and NAME.md into a folder; returns the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / f"{name}.json", overwrite=True) as path:
        path.write_text(json_text(page), encoding="utf-8", newline="\n")
    text = markdown_page(page, f"{name}.json")
    with atomic_file(folder / f"{name}.md", overwrite=True) as path:
        path.write_text(text, encoding="utf-8", newline="\n")
    return folder / f"{name}.md"


def load_page(path: Path) -> ResultPage:
    """The page of a JSON file."""
    return ResultPage.from_dict(json.loads(path.read_text(encoding="utf-8")))


def json_text(page: ResultPage) -> str:
    """The page as JSON, with one line per row of a table; empty fields are left out."""
    document = {key: value for key, value in asdict(page).items() if value}
    rows: list[str] = []
    for table in document["tables"]:
        for key in ("columns", "rows"):
            lines = [json.dumps(line, ensure_ascii=False) for line in table[key]]
            table[key] = [f"@{len(rows) + index}@" for index in range(len(lines))]
            rows += lines
    document["tables"] = [
        {key: table[key] for key in ("title", "text", "columns", "rows", "notes") if table[key]}
        for table in document["tables"]
    ]
    text = json.dumps(document, indent=1, ensure_ascii=False)
    for index, line in enumerate(rows):
        text = text.replace(f'"@{index}@"', line, 1)
    return text + "\n"


def outdated_pages(folder: Path = RESULTS) -> list[Path]:
    """Pages that differ from what their JSON gives."""
    return [
        path.with_suffix(".md")
        for path in sorted(folder.glob("*.json"))
        if not path.with_suffix(".md").is_file()
        or path.with_suffix(".md").read_text(encoding="utf-8")
        != markdown_page(load_page(path), path.name)
    ]


def _provenance(page: ResultPage, source: str) -> str:
    """When, where and from what the page was made."""
    parts = []
    if page.machine:
        known = dict(page.machine)
        cores = f"{known.pop('cores', '')} {known.pop('processor', '')} cores".strip()
        memory = f"{known.pop('memory_gib')} GiB" if "memory_gib" in known else ""
        device = str(known.pop("device", ""))
        versions = [f"{name} {version}" for name, version in known.items()]
        parts.append(", ".join(filter(None, [device, cores, memory, *versions])))
    if page.date:
        parts.append(page.date)
    if page.commit:
        parts.append(f"commit {page.commit}")
    measured = f"Measured: {'; '.join(parts)}. " if parts else ""
    generated = f"Generated from [{source}]({source}) by `benchmarks/results.py`; do not edit."
    return _wrap(measured + generated)


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _cell(value: Cell, spec: str) -> str:
    if isinstance(value, list):
        specs = spec.split(" / ")
        specs = specs if len(specs) == len(value) else specs * len(value)
        return " / ".join(_cell(*pair) for pair in zip(value, specs, strict=True))
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else format(value, spec)


@dataclass(frozen=True)
class Results:
    """Rewrites all result pages of a folder from their JSON."""

    folder: Path = RESULTS
    check: bool = False
    """Only list the pages that would change; exit code 1 if there are any."""


def main(settings: Results) -> int:
    outdated = outdated_pages(settings.folder)
    for path in outdated:
        print(path)
        if not settings.check:
            save_page(settings.folder, path.stem, load_page(path.with_suffix(".json")))
    return 1 if settings.check and outdated else 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Results, description=__doc__)))

"""What was measured, as a document: JSON for machines, Markdown for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import InputError
from ..io.files.json_text import parse_json

Figure = float | bool | str | None
Figures = dict[str, dict[str, Figure]]
"""Part of the measurement -> name of the figure -> its value."""

COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    ("CD-L1", "surface", "cd_l1", ".4f"),
    ("F@.01", "surface", "f_at_0.01", ".3f"),
    ("F@.02", "surface", "f_at_0.02", ".3f"),
    ("NC", "surface", "normal_consistency", ".3f"),
    ("IoU", "surface", "iou", ".3f"),
    ("watertight", "surface", "watertight", ""),
    ("visible CD-L1", "visible", "cd_l1", ".4f"),
    ("visible F@.005", "visible", "f_at_0.005", ".3f"),
    ("visible F@.01", "visible", "f_at_0.01", ".3f"),
    ("visible NC", "visible", "normal_consistency", ".3f"),
    ("PSNR", "images_all", "psnr", ".2f"),
    ("PSNR el 0", "images_el0", "psnr", ".2f"),
    ("PSNR el ±25", "images_el25", "psnr", ".2f"),
    ("SSIM", "images_all", "ssim", ".4f"),
    ("mask IoU", "images_all", "mask_iou", ".3f"),
    ("normal error °", "images_all", "normal_error_deg", ".2f"),
)
"""Heading, part, figure and number format of the table's columns."""


@dataclass(frozen=True)
class Report:
    """Figures of one mesh against its reference; holds no paths and nothing about the machine
    but the seconds."""

    protocol: str
    """strict or syncdreamer: figures of different protocols do not compare."""
    figures: Figures
    """surface, visible, images_all, images_el0, images_el25, and with alignment also
    alignment, before_surface and before_visible. None stands for a figure that does not exist; a
    note says why."""
    settings: dict[str, Any]
    """The `EvaluateConfig` that was used, and the constants of the protocol."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each part."""
    notes: tuple[str, ...] = ()
    """What a reader must know to quote the figures."""

    def to_dict(self) -> dict[str, Any]:
        """The report as plain containers."""
        return {**asdict(self), "notes": list(self.notes)}

    def to_json(self) -> str:
        """The report as JSON; figures that do not exist are null."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Report:
        """A report from what `to_dict` made.

        Raises:
            InputError: if the document is no such report.
        """
        missing = [name for name in ("protocol", "figures", "settings") if name not in document]
        if missing:
            raise InputError(
                f"this is no evaluation report: it has no {', '.join(missing)}.",
                "Give a file that `evaluate --json` wrote.",
            )
        return cls(
            document["protocol"],
            document["figures"],
            document["settings"],
            document.get("seconds", {}),
            tuple(document.get("notes", ())),
        )

    @classmethod
    def from_json(cls, text: str) -> Report:
        """A report from what `to_json` wrote; InputError if it is something else."""
        try:
            document = parse_json(text, "it")
        except InputError as error:
            raise InputError(f"this is no evaluation report: {error.message}") from error
        if not isinstance(document, dict):
            raise InputError("this is no evaluation report: its JSON holds no named values.")
        return cls.from_dict(document)


def markdown_table(reports: Mapping[str, Report]) -> str:
    """A Markdown table with one row a report and, from two reports on, a row of means.

    Only columns that some report has are shown; "-" stands for a figure that does not exist. Means
    leave such rows out, so a mean may cover fewer objects than the table has rows; the number of
    objects stands beside it then.

    Raises:
        InputError: on no reports, or reports of different protocols: their figures do not compare.
    """
    if not reports:
        raise InputError("there are no reports to put into a table.")
    protocols = sorted({report.protocol for report in reports.values()})
    if len(protocols) > 1:
        raise InputError(
            f"reports of the protocols {' and '.join(protocols)} cannot share a table.",
            "Measure all meshes with one protocol.",
        )
    columns = [column for column in COLUMNS if any(_has(r, column) for r in reports.values())]
    rows = [["object", *(heading for heading, *_ in columns)], ["---"] + ["---:"] * len(columns)]
    for name, report in reports.items():
        cells = [_cell(report.figures.get(part, {}).get(key), f) for _, part, key, f in columns]
        rows.append([name.replace("|", "\\|").replace("\n", " "), *cells])
    if len(reports) > 1:
        rows.append(["mean", *(_mean_cell(reports, column) for column in columns)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def figure_lines(report: Report) -> str:
    """One report's figures, one a line, in columns that line up in a font of fixed width."""
    shown = [column for column in COLUMNS if _has(report, column)]
    width = max((len(heading) for heading, *_ in shown), default=0)
    return "".join(
        f"{heading:<{width}}  {_cell(report.figures[part][key], number_format):>8}\n"
        for heading, part, key, number_format in shown
    )


def _has(report: Report, column: tuple[str, str, str, str]) -> bool:
    return column[2] in report.figures.get(column[1], {})


def _cell(value: Figure, number_format: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format(value, number_format)


def _mean_cell(reports: Mapping[str, Report], column: tuple[str, str, str, str]) -> str:
    _, part, key, number_format = column
    found = [report.figures.get(part, {}).get(key) for report in reports.values()]
    values = [value for value in found if value is not None]
    if not values:
        return "-"
    if isinstance(values[0], bool):
        return f"{sum(values)} of {len(values)}"
    mean = format(sum(values) / len(values), number_format)
    return mean if len(values) == len(found) else f"{mean} ({len(values)})"

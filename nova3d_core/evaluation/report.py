"""Evaluation report: JSON and Markdown output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import InputError
from ..io.files.json_text import parse_json

MetricValue = float | bool | str | None
Metrics = dict[str, dict[str, MetricValue]]
"""Group of metrics -> name of the metric -> its value."""

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
    ("LPIPS vgg", "images_all", "lpips_vgg", ".4f"),
    ("LPIPS alex", "images_all", "lpips_alex", ".4f"),
    ("mask IoU", "images_all", "mask_iou", ".3f"),
    ("normal error °", "images_all", "normal_error_deg", ".2f"),
)
"""Heading, group, metric and format specification of the table's columns."""


@dataclass(frozen=True)
class Report:
    """Metrics of one mesh against its reference.

    It holds no paths, and nothing about the machine except the seconds.
    """

    protocol: str
    """strict or syncdreamer: metrics of different protocols are not comparable."""
    metrics: Metrics
    """surface, visible, images_all, images_el0, images_el25, and with alignment also alignment,
    before_surface and before_visible. None: the metric is undefined; a note states the reason."""
    settings: dict[str, Any]
    """The `EvaluateConfig` and the constants of the protocol."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each step."""
    notes: tuple[str, ...] = ()
    """What must be stated when the metrics are quoted."""

    def to_dict(self) -> dict[str, Any]:
        """The report as plain containers."""
        return {**asdict(self), "notes": list(self.notes)}

    def to_json(self) -> str:
        """The report as JSON; undefined metrics are null."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Report:
        """The inverse of `to_dict`.

        Raises:
            InputError: the document is not a report.
        """
        missing = [name for name in ("protocol", "metrics", "settings") if name not in document]
        if missing:
            raise InputError(
                f"not an evaluation report: {', '.join(missing)} missing.",
                "Use a file written by `evaluate --json`.",
            )
        return cls(
            document["protocol"],
            document["metrics"],
            document["settings"],
            document.get("seconds", {}),
            tuple(document.get("notes", ())),
        )

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The inverse of `to_json`; InputError for any other text."""
        try:
            document = parse_json(text, "it")
        except InputError as error:
            raise InputError(f"not an evaluation report: {error.message}") from error
        if not isinstance(document, dict):
            raise InputError("not an evaluation report: its JSON is not an object.")
        return cls.from_dict(document)


def markdown_table(reports: Mapping[str, Report]) -> str:
    """Markdown table with one row per report and, for two or more, a row of means.

    Columns without any value are left out; "-" is an undefined metric. A mean over fewer reports
    than rows is followed by their number in parentheses.

    Raises:
        InputError: no reports, or reports of different protocols.
    """
    if not reports:
        raise InputError("a table needs reports, but there are none.")
    protocols = sorted({report.protocol for report in reports.values()})
    if len(protocols) > 1:
        raise InputError(
            f"reports of the protocols {' and '.join(protocols)} cannot share a table.",
            "Evaluate all meshes with one protocol.",
        )
    columns = [column for column in COLUMNS if any(_has(r, column) for r in reports.values())]
    rows = [["object", *(heading for heading, *_ in columns)], ["---"] + ["---:"] * len(columns)]
    for name, report in reports.items():
        cells = [_cell(report.metrics.get(part, {}).get(key), f) for _, part, key, f in columns]
        rows.append([name.replace("|", "\\|").replace("\n", " "), *cells])
    if len(reports) > 1:
        rows.append(["mean", *(_mean_cell(reports, column) for column in columns)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def undefined_metrics(report: Report) -> list[str]:
    """The notes that state why a metric is undefined, one sentence each; LPIPS is left out."""
    return [each for each in report.notes if each.startswith("No ") and "LPIPS" not in each]


def format_metrics(report: Report) -> str:
    """Metrics of one report, one per line, aligned for a fixed-width font; then the reasons of
    undefined ones."""
    shown = [column for column in COLUMNS if _has(report, column)]
    width = max((len(heading) for heading, *_ in shown), default=0)
    return "".join(
        f"{heading:<{width}}  {_cell(report.metrics[part][key], format_spec):>8}\n"
        for heading, part, key, format_spec in shown
    ) + "".join(f"{reason}\n" for reason in undefined_metrics(report))


def _has(report: Report, column: tuple[str, str, str, str]) -> bool:
    return column[2] in report.metrics.get(column[1], {})


def _cell(value: MetricValue, format_spec: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format(value, format_spec)


def _mean_cell(reports: Mapping[str, Report], column: tuple[str, str, str, str]) -> str:
    _, part, key, format_spec = column
    cells = [report.metrics.get(part, {}).get(key) for report in reports.values()]
    values = [value for value in cells if value is not None]
    if not values:
        return "-"
    if isinstance(values[0], bool):
        return f"{sum(values)} of {len(values)}"
    mean = format(sum(values) / len(values), format_spec)
    return mean if len(values) == len(cells) else f"{mean} ({len(values)})"

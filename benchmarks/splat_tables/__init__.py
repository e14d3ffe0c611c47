"""Tables of the benchmark of splats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from results import Table

Row = dict[str, Any]
"""Result of one run."""

INPUT_VIEWS = 18
"""Level views, as V3D generates them."""
MIN_GAIN_DB = 0.5
"""Target: mean PSNR of the splats above that of the mesh."""
MIN_BENT_GAIN_DB, MAX_CLEAN_LOSS_DB = 1.2, 0.3
"""Targets: mean PSNR of the alignment relative to fits without it, on bent and on exact views."""
BEND_NODES, BEND_PX, BEND_GAIN = 4, 3.0, 0.05
"""Bent views: displacements at nodes x nodes points, uniform within +-px, bicubic in between;
factors of the colour channels within 1 +- gain. View 0 stays exact."""
FUSION_ELEVATIONS_DEG = (-30.0, 0.0, 30.0, 60.0)
FUSION_AZIMUTHS = 16
"""Renders of the splats that are fused: this many azimuths at each elevation."""
FUSION_METHODS = ("views", "splats", "views and splats")
"""What is fused: the input views without normals, 64 renders of the splats, or both."""
WITH_NORMALS = "views with normals"
"""The mesh of the part objects."""


def objects_tables(rows: Sequence[Row]) -> list[Table]:
    """Splats and mesh of each object, and their means."""
    by_object: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_object.setdefault(row["object"], {})[row["method"]] = row
    both = {name: pair for name, pair in by_object.items() if len(pair) == 2}
    names = ("psnr_0", "psnr_20", "psnr_mean", "ssim_mean", "mask_iou_mean", "seconds")
    names += ("cpu_seconds",)
    headings = ("PSNR el 0", "PSNR el 20", "PSNR mean", "SSIM", "mask IoU", "seconds", "CPU s")
    specs = (".2f", ".2f", ".2f", ".4f", ".3f", ".0f", ".0f")
    columns = [("object", "")]
    columns += [
        (f"{heading}, splats / mesh", spec) for heading, spec in zip(headings, specs, strict=True)
    ]
    columns += [("splats", "d"), ("gain dB", ".2f")]
    lines: list[list] = []
    for name, pair in both.items():
        splats, mesh = pair["splats"], pair["mesh"]
        cells: list = [[splats[key], mesh[key]] for key in names]
        gain = splats["psnr_mean"] - mesh["psnr_mean"]
        lines.append([name, *cells, splats["count"], gain])
    notes = []
    if len(lines) > 1:
        means: list = [
            [mean(row[method][key] for row in both.values()) for method in ("splats", "mesh")]
            for key in names
        ]
        gain = mean(line[-1] for line in lines)
        count = round(mean(line[-2] for line in lines))
        lines.append(["mean", *means, count, gain])
        notes.append(
            f"Target: at least {MIN_GAIN_DB} dB above the mesh in the mean. Measured: {gain:+.2f} "
            f"dB, {'met' if gain >= MIN_GAIN_DB else 'missed'}."
        )
    text = (
        "The same views for both: the splats start on a surface that is fused from colours, masks "
        "and normals, as part of the fit; the mesh is that of the preset `fast`, textured. Seconds "
        "from the views to the file, warm caches."
    )
    return [Table(columns, lines, "Splats and mesh on held-out views", text, notes)]


def bent_tables(rows: Sequence[Row]) -> list[Table]:
    """Alignment against plain fits, on bent and on exact views."""
    columns = [
        ("object", ""), ("views", ""), ("seed", "d"), ("PSNR of the views", ".1f"),
        ("plain: PSNR el 0 / el 20", ".2f"), ("aligned: PSNR el 0 / el 20", ".2f"),
        ("plain / aligned: SSIM", ".3f"), ("plain / aligned: mask IoU", ".3f"),
        ("warp px", ".2f"), ("gain dB", ".2f"),
    ]  # fmt: skip
    lines, gains = [], {"bent": [], "exact": []}
    for row in sorted(rows, key=lambda row: row["views"]):
        gain = row["aligned_psnr_mean"] - row["plain_psnr_mean"]
        gains[row["views"]].append(gain)
        lines.append([
            row["object"], row["views"], row["seed"], row["input_psnr"],
            [row["plain_psnr_0"], row["plain_psnr_20"]],
            [row["aligned_psnr_0"], row["aligned_psnr_20"]],
            [row["plain_ssim_mean"], row["aligned_ssim_mean"]],
            [row["plain_mask_iou_mean"], row["aligned_mask_iou_mean"]],
            row["aligned_warp_px"], gain,
        ])  # fmt: skip
    notes = []
    for kind, least in (("bent", MIN_BENT_GAIN_DB), ("exact", -MAX_CLEAN_LOSS_DB)):
        if gains[kind]:
            gain = mean(gains[kind])
            notes.append(
                f"{kind.capitalize()} views: {gain:+.2f} dB in the mean; target at least "
                f"{least:+.1f} dB, {'met' if gain >= least else 'missed'}."
            )
    text = (
        f"Every view but the first is displaced by up to {BEND_PX:g} px at {BEND_NODES} x "
        f"{BEND_NODES} nodes, bicubic in between, and its colour channels are scaled by 1 ± "
        f"{BEND_GAIN:g}. Plain: 0.8 L1 + 0.2 SSIM; aligned: also a smooth warp of each view where "
        "views contradict each other. PSNR of the views is against exact ones."
    )
    return [Table(columns, lines, "Views that bend", text, notes)]


def fusion_tables(rows: Sequence[Row]) -> list[Table]:
    """Meshes of the input views and of renders of the splats."""
    methods = (WITH_NORMALS, *FUSION_METHODS)
    rows = sorted(rows, key=lambda row: (row["object"], methods.index(row["method"])))
    keys = ("visible_cd", "visible_f", "cd", "normal_error_deg")
    keys += ("images_psnr_0", "images_psnr_25")
    columns = [
        ("object", ""), ("fused", ""), ("views", "d"), ("visible CD-L1", ".4f"),
        ("visible F@.005", ".3f"), ("CD-L1", ".4f"), ("normal error °", ".2f"),
        ("PSNR el 0", ".2f"), ("PSNR el ±25", ".2f"), ("CPU s", ".0f"),
    ]  # fmt: skip
    lines = [
        [row["object"], row["method"], row["views"], *(row[k] for k in keys), row["cpu_seconds"]]
        for row in rows
    ]
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        if len(own) > 1:
            values = [mean(row[key] for row in own) for key in (*keys, "cpu_seconds")]
            lines.append([f"mean of {len(own)}", method, own[0]["views"], *values])
    count = FUSION_AZIMUTHS * len(FUSION_ELEVATIONS_DEG)
    elevations = ", ".join(f"{each:g}" for each in FUSION_ELEVATIONS_DEG)
    text = (
        f"Meshes of the preset `fast` from the {INPUT_VIEWS} views and from {count} renders of the "
        f"splats fitted to them, at elevations of {elevations} degrees. Only the rows "
        f'"{WITH_NORMALS}" use normals.'
    )
    return [Table(columns, lines, "From splats to meshes", text, fusion_notes(rows))]


def fusion_notes(rows: Sequence[Row]) -> list[str]:
    """Verdicts on fusing renders of the splats, against fusing the views without normals."""
    by_method = {
        method: {row["object"]: row for row in rows if row["method"] == method}
        for method in FUSION_METHODS
    }
    direct, notes = by_method["views"], []
    for method in ("splats", "views and splats"):
        names = sorted(set(direct) & set(by_method[method]))
        if not names:
            continue
        ratios = [
            mean(by_method[method][name][key] for name in names)
            / mean(direct[name][key] for name in names)
            for key in ("visible_cd", "normal_error_deg", "cpu_seconds")
        ]
        verdict = "met" if max(ratios[:2]) <= 1.0 else "missed"
        notes.append(
            f"{method.capitalize()} ({', '.join(names)}): {ratios[0]:.2f} of the visible CD-L1, "
            f"{ratios[1]:.2f} of the normal error and {ratios[2]:.1f} times the CPU time of fusing "
            f"the views without normals; target at most 1 for the first two, {verdict}."
        )
    return notes


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean."""
    listed = list(values)
    return sum(listed) / len(listed)

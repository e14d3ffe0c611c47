"""Text report of a fit of splats."""

from __future__ import annotations

from .fit import SplatFitReport


def splat_report(report: SplatFitReport) -> str:
    """Splats, steps, loss and alignment of a fit, in lines of at most 46 characters."""
    aligned = (
        f"views warped by {report.warp_px:.2f} px (root mean square)"
        if report.warp_px
        else "views agree or were not aligned: not warped"
    )
    lines = [
        f"{report.count} splats, {report.initial_count} at the start",
        f"{report.steps} steps, loss {report.loss:.4f}",
        aligned,
    ]
    return "\n".join(lines) + "\n"

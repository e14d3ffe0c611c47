"""Text report of a fit of splats."""

from __future__ import annotations

from .fit import SplatFitReport

_INITS = {
    "surface": ", on a fused surface",
    "mesh": ", on the mesh",
    "hull": ", on the visual hull",
    "given": "",
}


def splat_report(report: SplatFitReport) -> str:
    """Splats, steps, loss and alignment of a fit, in lines that fit ComfyUI's Preview as Text."""
    changes = []
    if report.warp_px:
        changes.append(f"warped by {report.warp_px:.2f} px")
    if report.gain_percent:
        changes.append(f"scaled by {report.gain_percent:.1f} %")
    lines = [
        f"{report.count} splats, {report.initial_count} at the start{_INITS[report.init]}",
        f"{report.steps} steps, loss {report.loss:.4f}",
        f"contradictions: {report.perceptual}",
        f"views {' and '.join(changes)} (RMS)" if changes else "views agree: unchanged",
    ]
    return "\n".join(lines) + "\n"

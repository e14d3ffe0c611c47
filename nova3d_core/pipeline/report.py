"""What a fusion found, as text for people."""

from __future__ import annotations

from ..cameras.cameras import Cameras
from ..evaluation.metrics.poses import pose_motion
from ..fusion.surface import Surface
from ..views import Views


def pose_report(before: Cameras, after: Cameras) -> str:
    """How far a refinement moved each view, one line a view.

    Shifts are what the world's origin moved by in the view's image, in percent of a world unit
    (the longest side of an object that fits the default rig).
    """
    motion = pose_motion(before, after)
    lines = ["view  turned by  shifted by"]
    for view, (turn, shift) in enumerate(
        zip(motion.rotation_deg.tolist(), motion.lateral_percent.tolist(), strict=True)
    ):
        lines.append(f"{view:4d}  {turn:7.2f} deg  {shift:7.2f} %")
    return "\n".join(lines) + "\n"


def fusion_report(surface: Surface, given: Views) -> str:
    """How a fusion went: its size, and what it found out about each of the given views."""
    report = surface.report
    if report.steps == 0:
        return (
            f"The visual hull of {len(given)} views, cells of {report.spacing:.4g}; poses, "
            "exposure and conflict were not looked at.\n"
        )
    seconds = sum(report.seconds.values())
    lines = [
        f"{len(given)} views fused in {report.steps} steps and {seconds:.1f} s, cells of "
        f"{report.spacing:.4g}; {report.rays} rays look at the object.",
        "",
        "view  turned by  shifted by   conflict  exposure (red, green, blue)",
    ]
    for view in range(len(given)):
        gain = ", ".join(f"{channel:.2f}" for channel in report.gains[view])
        lines.append(
            f"{view:4d}  {report.rotation_deg[view]:7.2f} deg  {report.translation[view]:9.4f}  "
            f"{report.mean_conflict[view]:8.1%}  {gain}"
        )
    lines.append("")
    if report.reverted:
        listed = ", ".join(str(view) for view in report.reverted)
        lines.append(f"Kept as given, as that fits the silhouette better: view {listed}.")
    lines.append("View 0 is exact by definition: the others were moved relative to it.")
    return "\n".join(lines) + "\n"

"""Text reports of fusion and pose refinement."""

from __future__ import annotations

from ..cameras.cameras import Cameras
from ..evaluation.metrics.poses import pose_motion
from ..fusion.checks.cameras import judge_cameras
from ..fusion.surface import Surface
from ..views import Views


def pose_report(before: Cameras, after: Cameras) -> str:
    """Rotation and translation of each view by a pose refinement, one line per view.

    Translations are those of the world's origin in the view's image plane, in percent of a world
    unit (the longest side of an object that fits the default rig).
    """
    motion = pose_motion(before, after)
    lines = ["view     rotation  translation"]
    for view, (rotation, translation) in enumerate(
        zip(motion.rotation_deg.tolist(), motion.lateral_percent.tolist(), strict=True)
    ):
        lines.append(f"{view:4d}  {rotation:7.2f} deg  {translation:9.2f} %")
    return "\n".join(lines) + "\n"


def fusion_report(surface: Surface, views: Views) -> str:
    """Summary of a fusion, with pose correction, conflict and exposure of each input view.

    The table is 46 characters wide, so that it fits ComfyUI's Preview as Text: rotation in degrees,
    shift in world units, mean conflict, exposure gain of red, green and blue.
    """
    report = surface.report
    if surface.is_hull:
        return (
            f"Visual hull of {len(views)} views, cell size {report.spacing:.4g}; poses, exposure "
            "and conflict were not estimated.\n"
        )
    seconds = sum(report.seconds.values())
    lines = [
        f"{len(views)} views fused in {report.steps} steps and {seconds:.1f} s",
        f"cell size {report.spacing:.4g}, {report.rays} rays near the object",
        "view  rot/deg   shift  conflict  gain R,G,B",
    ]
    for view in range(len(views)):
        gain = " ".join(f"{channel:.2f}" for channel in report.gains[view])
        lines.append(
            f"{view:4d}  {report.rotation_deg[view]:7.2f}  {report.translation[view]:6.4f}  "
            f"{report.mean_conflict[view]:7.1%}  {gain}"
        )
    lines.append("")
    if report.reverted:
        reverted = ", ".join(str(view) for view in report.reverted)
        lines.append(f"Input pose kept because it fits the silhouette better: view {reverted}.")
    if report.warp_px:
        mean_px = sum(report.warp_px[1:]) / (len(views) - 1)
        of_views = ", ".join(f"{view}: {px:.1f}" for view, px in enumerate(report.warp_px))
        lines.append(
            f"The views contradict each other; smooth warps correct that: {mean_px:.1f} px rms in "
            f"the mean, of each view {of_views}."
        )
    lines.append("View 0 is fixed; poses are relative to it.")
    lines += judge_cameras(views).notes
    return "\n".join(lines) + "\n"

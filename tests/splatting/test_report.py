"""The text report of a fit."""

from __future__ import annotations

from nova3d_core.splatting.fit import SplatFitReport
from nova3d_core.splatting.report import splat_report


def report(**changes: float | str) -> str:
    values = {"steps": 600, "initial_count": 20_000, "count": 11_234, "loss": 0.01234}
    values |= {"warp_px": 0.0, "gain_percent": 0.0, "perceptual": "aligned"}
    values |= {"init": "hull", **changes}
    return splat_report(SplatFitReport(**values))


def test_report_names_all_numbers_in_short_lines():
    lines = report(warp_px=1.234, gain_percent=4.56).splitlines()
    assert lines == [
        "11234 splats, 20000 at the start, on the visual hull",
        "600 steps, loss 0.0123",
        "contradictions: aligned",
        "views warped by 1.23 px and scaled by 4.6 % (RMS)",
    ]


def test_report_distinguishes_views_that_agree():
    assert report().splitlines()[-1] == "views agree: unchanged"
    assert report(init="surface").startswith("11234 splats, 20000 at the start, on a fused surface")
    assert report(gain_percent=2.0).splitlines()[-1] == "views scaled by 2.0 % (RMS)"

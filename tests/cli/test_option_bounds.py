"""Bounds of numeric options, including those that no settings class checks."""

from __future__ import annotations

import pytest

from nova3d_core.cli.main import main


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["render-dataset", "--procedural", "0"], "option procedural is 0, expected 1 to 2"),
        (["render-dataset", "--procedural", "3", "--workers", "0"], "option workers is 0"),
        (["render-dataset", "--procedural", "3", "--workers", "999999"], "option workers is 9"),
        (["train", "mini", "--minutes", "nan"], "option minutes is nan, expected 0 to 1,000,000"),
        (["train", "mini", "--minutes", "inf"], "option minutes is inf"),
        (["train", "mini", "--minutes", "-1"], "option minutes is -1"),
        (["train", "mini", "--steps", "0"], "training steps is 0, expected 1"),
        (
            ["generate", "x.png", "--elevation-amplitude-deg", "nan"],
            "option elevation_amplitude_deg is nan, expected 0 to 90",
        ),
        (["generate", "x.png", "--elevation-deg", "inf"], "option elevation_deg is inf"),
        (
            ["generate", "x.png", "--max-guidance-scale", "1e9"],
            "option max_guidance_scale is 1000000000.0",
        ),
        (["generate", "x.png", "--steps", "0"], "sampling steps is 0, expected 1 to 1000"),
        (["generate", "x.png", "--seed", "-1"], "sampling seed is -1"),
        (["render", "x.glb", "--rig.count", "1000000"], "rig count is 1000000, expected 1 to 4096"),
        (["render", "x.glb", "--rig.width-px", "0"], "rig width_px is 0, expected 1 to 16384"),
        (["render", "x.glb", "--rig.radius", "nan"], "rig radius is nan"),
        (["fuse", "views", "--hull.resolution", "9999"], "hull resolution is 9999"),
        (["fuse", "views", "--sdf.memory-gib", "-1"], "sdf memory_gib is -1"),
    ],
)  # fmt: skip
def test_values_out_of_bounds_are_rejected_in_one_line(words, line, capsys, tmp_path):
    assert main([*words, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

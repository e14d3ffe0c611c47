"""`.splat` files: 32 bytes per splat, colours, opacity and rotation as 8-bit values."""

from __future__ import annotations

import numpy as np
import torch

from ...errors import InputError
from ...splats import Splats

_RECORD = np.dtype(
    [("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)]
)
RECORD_BYTES = _RECORD.itemsize


def parse_dot_splat(content: bytes) -> Splats:
    """Parses a `.splat` file.

    Raises:
        InputError: the file is truncated or contains NaN.
    """
    if len(content) % _RECORD.itemsize:
        raise InputError(
            f"its size of {len(content)} bytes is not a multiple of {_RECORD.itemsize}.",
            "The file is truncated or is no .splat file: copy or export it again.",
        )
    records = np.frombuffer(content, _RECORD)
    rgba = torch.from_numpy(records["rgba"] / np.float32(255.0))
    return Splats(
        positions=torch.from_numpy(records["position"].copy()),
        scales=torch.from_numpy(records["scale"].copy()),
        rotations=torch.from_numpy((records["rotation"].astype(np.float32) - 128.0) / 128.0),
        opacities=rgba[:, 3],
        colours=rgba[:, :3],
    )


def splats_to_dot_splat(splats: Splats) -> bytes:
    """Encodes splats as a `.splat` file, the largest and most opaque first, as viewers expect."""
    order = torch.argsort(-splats.scales.prod(dim=1) * splats.opacities, stable=True)
    ordered = splats[order].to("cpu")
    records = np.zeros(len(ordered), _RECORD)
    records["position"], records["scale"] = ordered.positions.numpy(), ordered.scales.numpy()
    rgba = torch.cat([ordered.colours, ordered.opacities[:, None]], dim=1)  # (N, 4)
    records["rgba"] = (rgba.clamp(0.0, 1.0) * 255.0).round().numpy()
    records["rotation"] = (ordered.rotations * 128.0 + 128.0).round().clamp(0.0, 255.0).numpy()
    return records.tobytes()

"""PLY files of splats, as in 3D Gaussian splatting: log scales, logits and spherical harmonics.

The colour is the constant (DC) term of the spherical harmonics: rgb = 0.28209479 f_dc + 0.5.
"""

from __future__ import annotations

import logging
import re

import numpy as np
import torch

from ...errors import InputError
from ...splats import Splats
from ..files.ownership import GENERATOR
from ..mesh.ply.elements import Columns, read_elements

logger = logging.getLogger(__name__)

SH_C0 = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2 sqrt(pi))."""
_POSITIONS = ("x", "y", "z")
_HARMONICS = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALES = ("scale_0", "scale_1", "scale_2")
_ROTATIONS = ("rot_0", "rot_1", "rot_2", "rot_3")
_WRITTEN = (*_POSITIONS, "nx", "ny", "nz", *_HARMONICS, "opacity", *_SCALES, *_ROTATIONS)
_OPACITY_MARGIN = 1e-6
"""Distance from 0 and 1 that keeps logits finite."""
_MIN_SCALE = 1e-8


def parse_splat_ply(content: bytes) -> Splats:
    """Parses a PLY file of splats; higher spherical harmonics are dropped with a warning.

    Raises:
        InputError: the file is damaged, is a mesh or a point cloud, or contains NaN.
    """
    _, elements = read_elements(content)
    vertex = elements.get("vertex", {})
    required = (*_POSITIONS, *_HARMONICS, "opacity", *_SCALES, *_ROTATIONS)
    missing = [name for name in required if name not in vertex]
    if missing:
        raise _no_splats_error(missing[0], elements)
    if any(re.fullmatch(r"f_rest_\d+", name) for name in vertex):
        logger.warning("spherical harmonics above degree 0 are dropped: colours do not depend on "
                       "the viewing direction here")  # fmt: skip
    return Splats(
        positions=_columns(vertex, _POSITIONS),
        scales=_columns(vertex, _SCALES).exp().clamp_min(_MIN_SCALE),
        rotations=_columns(vertex, _ROTATIONS),
        opacities=_columns(vertex, ("opacity",))[:, 0].sigmoid(),
        colours=SH_C0 * _columns(vertex, _HARMONICS) + 0.5,
    )


def _no_splats_error(missing: str, elements: dict[str, Columns]) -> InputError:
    """The error for a PLY file without a property that splats need."""
    vertex = elements.get("vertex", {})
    if "packed_position" in vertex:
        return InputError(
            "it contains compressed splats (packed_position).",
            "Save it as an uncompressed .ply file in the program that wrote it.",
        )
    if any(name in vertex for name in (*_HARMONICS, *_SCALES, *_ROTATIONS)):
        return InputError(
            f"its splats have no property {missing}.",
            "Export it again in the layout of 3D Gaussian splatting.",
        )
    kind = "a mesh" if "face" in elements else "a point cloud"
    return InputError(
        f"it contains no Gaussian splats but {kind}: it has no property {missing}.",
        "Read meshes with Load Mesh or `evaluate`; splat files have scales and rotations.",
    )


def splats_to_ply(splats: Splats, comment: str = GENERATOR) -> bytes:
    """Encodes splats as binary PLY in the layout of 3D Gaussian splatting.

    Without a comment, the bytes are those of ComfyUI's writer.
    """
    on_cpu = splats.to("cpu")
    opacities = on_cpu.opacities.numpy()[:, None].clip(_OPACITY_MARGIN, 1.0 - _OPACITY_MARGIN)
    columns = [
        on_cpu.positions.numpy(),
        np.zeros((len(splats), 3), np.float32),  # normals, by convention zero
        ((on_cpu.colours - 0.5) / SH_C0).numpy(),
        np.log(opacities / (1.0 - opacities)),
        np.log(on_cpu.scales.numpy().clip(min=_MIN_SCALE)),
        on_cpu.rotations.numpy(),
    ]
    values = np.concatenate(columns, axis=1).astype("<f4")  # (N, 17)
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *([f"comment {comment}"] if comment else []),
        f"element vertex {len(splats)}",
        *(f"property float {name}" for name in _WRITTEN),
        "end_header",
    ]
    return ("\n".join(header) + "\n").encode() + values.tobytes()


def _columns(vertex: Columns, names: tuple[str, ...]) -> torch.Tensor:
    """(N, len(names)) float32 values of scalar properties."""
    values = [vertex[name] for name in names]
    if not all(isinstance(value, np.ndarray) for value in values):
        raise InputError(f"the property {names[0]} is a list, expected one value per splat.")
    return torch.from_numpy(np.stack(values, axis=1).astype(np.float32))

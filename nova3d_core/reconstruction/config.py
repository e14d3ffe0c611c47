"""Architecture, cameras and settings of LGM; the defaults are its published "big" model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..checks import check_bounds, check_choice
from ..errors import InputError

RECONSTRUCTION = "reconstruction"
"""Name of the only part of a reconstruction model; see `diffusion.model.Placement`."""
VIEW_COUNT = 4
"""Input views, about 90 degrees apart."""
FOREGROUND_RATIO = 0.8
"""Longer side of the object over the side of the image, as in the inference code of both models."""
MIN_OPACITY = 0.005
"""Splats below it are removed, as in LGM's own export."""

Rotations = Literal["auto", "normalised", "identity"]
ROTATIONS: tuple[str, ...] = get_args(Rotations)
Framing = Literal["object", "image"]
FRAMINGS: tuple[str, ...] = get_args(Framing)


@dataclass(frozen=True)
class LgmConfig:
    """Architecture of LGM's asymmetric U-Net."""

    in_channels: int = 9
    """ImageNet-normalised RGB and the 6 Pluecker coordinates of each pixel's ray."""
    out_channels: int = 14
    """Position 3, opacity 1, scale 3, rotation 4, colour 3."""
    down_widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 1024)
    """Channels of the encoder's levels; each halves the resolution of the one before."""
    down_attention: tuple[bool, ...] = (False, False, False, True, True, True)
    """Which levels of the encoder have attention."""
    mid_attention: bool = True
    """Whether the deepest block has attention."""
    up_widths: tuple[int, ...] = (1024, 1024, 512, 256, 128)
    """Channels of the decoder's levels, the coarsest first; fewer than the encoder's, so that the
    output is smaller than the input."""
    up_attention: tuple[bool, ...] = (True, True, True, False, False)
    """Which levels of the decoder have attention."""
    layers_per_block: int = 2
    """Residual blocks per level of the encoder; the decoder has one more."""
    num_heads: int = 16
    """Attention heads, the same number at every level."""
    norm_num_groups: int = 32
    """Number of groups of the group norms; divides every width."""
    time_channels: int = 0
    """Length of the sinusoidal embedding of the noise level; 0 for a network without it."""

    def __post_init__(self):
        check_bounds(
            self,
            "LGM",
            in_channels=(1, 4096),
            out_channels=(1, 4096),
            down_widths=(1, 65_536),
            up_widths=(1, 65_536),
            layers_per_block=(1, 16),
            num_heads=(1, 4096),
            norm_num_groups=(1, 4096),
            time_channels=(0, 65_536),
        )
        levels = (len(self.down_widths), len(self.up_widths))
        if levels != (len(self.down_attention), len(self.up_attention)) or min(levels) < 1:
            raise InputError(
                f"LGM has {levels[0]} encoder and {levels[1]} decoder levels, but attention flags "
                f"for {len(self.down_attention)} and {len(self.up_attention)}."
            )
        if levels[1] > levels[0]:
            raise InputError(
                f"LGM's decoder has {levels[1]} levels, more than its encoder with {levels[0]}."
            )
        for width in (*self.down_widths, *self.up_widths):
            if width % self.norm_num_groups or width % self.num_heads:
                raise InputError(
                    f"an LGM level of {width} channels cannot be divided into "
                    f"{self.norm_num_groups} norm groups and {self.num_heads} heads."
                )

    @property
    def time_embed_dim(self) -> int:
        """Width of the time embedding."""
        return 4 * self.time_channels

    @property
    def stride(self) -> int:
        """Input pixels per output pixel along a side."""
        return 2 ** (len(self.down_widths) - len(self.up_widths))

    @property
    def multiple(self) -> int:
        """The input's height and width are multiples of this."""
        return 2 ** (len(self.down_widths) - 1)


@dataclass(frozen=True)
class ReconstructionFamily:
    """The cameras that a reconstruction model was trained with."""

    name: str
    """A key of `weights.discovery.registry.FAMILY_DESCRIPTIONS`."""
    label: str
    """Display name."""
    fov_deg: float
    """Field of view of the input images."""
    radius: float
    """Distance of the input cameras from the origin of the model's world."""
    size_px: int = 256
    """Width and height of the input images."""

    def __post_init__(self):
        check_bounds(self, "model", fov_deg=(1.0, 170.0), radius=(1e-3, 1e3), size_px=(8, 4096))


FAMILIES: dict[str, ReconstructionFamily] = {
    family.name: family
    for family in (
        ReconstructionFamily("lgm", "LGM", fov_deg=49.1, radius=1.5),
        ReconstructionFamily(
            "ouroboros3d",
            "Ouroboros3D's reconstruction model",
            fov_deg=39.59775,
            radius=1.7417,
        ),
    )
}
"""By name. Their worlds agree: view 0 is at (0, 0, radius) and not rotated."""


@dataclass(frozen=True)
class ReconstructConfig:
    """Settings of splats from views."""

    framing: Framing = "object"
    """object: each view is scaled about the object, which then fills 0.8 of the image as in
    training; image: only the field of view changes, which is exact."""
    rotations: Rotations = "auto"
    """Rotations of the splats. auto: by the file; normalised: each quaternion is normalised;
    identity: none, for weights trained with LGM's old normalisation over all splats."""

    def __post_init__(self):
        check_choice("framing", self.framing, FRAMINGS)
        check_choice("rotations", self.rotations, ROTATIONS)

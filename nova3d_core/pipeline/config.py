"""Settings of the whole way from views to a textured mesh."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ..checks import check_choice
from ..errors import InputError
from ..fusion.config import HullConfig, SdfFusionConfig
from ..meshing.config import MeshingConfig, UnwrapConfig
from ..texturing.config import BakeConfig

FuseMethod = Literal["sdf", "hull"]
FUSE_METHODS: tuple[str, ...] = get_args(FuseMethod)

Fallback = Literal["none", "hull"]
FALLBACKS: tuple[str, ...] = get_args(Fallback)


@dataclass(frozen=True)
class FuseConfig:
    """How views become a textured mesh."""

    method: FuseMethod = "sdf"
    """sdf: signed distances optimised with poses and conflict; hull: what the masks leave of space,
    carved in seconds."""
    fallback: Fallback = "none"
    """hull: carve the hull if the optimisation fails; none: fail with its error."""
    hull: HullConfig = field(default_factory=HullConfig)
    """Carving, for the method hull."""
    sdf: SdfFusionConfig = field(default_factory=SdfFusionConfig)
    """Optimising, for the method sdf."""
    meshing: MeshingConfig = field(default_factory=MeshingConfig)
    """From the carved surface to a light, closed mesh."""
    unwrap: UnwrapConfig = field(default_factory=UnwrapConfig)
    """Charts for the texture."""
    bake: BakeConfig = field(default_factory=BakeConfig)
    """The texture; the charts are packed for its size."""

    def __post_init__(self):
        if self.bake.texture_px < 16 * self.unwrap.padding_px:
            raise InputError(
                f"bake texture_px is {self.bake.texture_px}, expected at least 16 times the "
                f"unwrap padding_px of {self.unwrap.padding_px}."
            )
        check_choice("fuse method", self.method, FUSE_METHODS)
        check_choice("fuse fallback", self.fallback, FALLBACKS)

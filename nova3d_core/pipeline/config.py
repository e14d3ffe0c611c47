"""Settings of the fusion pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ..checks import check_choice
from ..errors import InputError
from ..fusion.config import HullConfig, SdfFusionConfig
from ..meshing.config import MeshingConfig, UnwrapConfig
from ..texturing.config import BakeConfig, UnlightConfig

FuseMethod = Literal["sdf", "hull"]
FUSE_METHODS: tuple[str, ...] = get_args(FuseMethod)

Fallback = Literal["none", "hull"]
FALLBACKS: tuple[str, ...] = get_args(Fallback)


@dataclass(frozen=True)
class FuseConfig:
    """Settings of all stages from views to a textured mesh."""

    method: FuseMethod = "sdf"
    """sdf: optimise a signed distance field together with poses and conflict maps; hull: carve the
    visual hull of the masks, in seconds."""
    fallback: Fallback = "none"
    """hull: carve the visual hull if the optimisation fails; none: raise the error."""
    hull: HullConfig = field(default_factory=HullConfig)
    """Visual hull, for the method hull."""
    sdf: SdfFusionConfig = field(default_factory=SdfFusionConfig)
    """Optimisation, for the method sdf."""
    meshing: MeshingConfig = field(default_factory=MeshingConfig)
    """Extraction, clean-up and simplification of the mesh."""
    unwrap: UnwrapConfig = field(default_factory=UnwrapConfig)
    """UV unwrapping."""
    bake: BakeConfig = field(default_factory=BakeConfig)
    """Texture baking; charts are packed for its texture size."""
    unlight: bool = False
    """Remove the light of the scene from the views before they are baked, if it stands still."""
    light: UnlightConfig = field(default_factory=UnlightConfig)
    """Estimation and removal of the light, with unlight."""

    def __post_init__(self):
        if self.bake.texture_px < 16 * self.unwrap.padding_px:
            raise InputError(
                f"bake texture_px is {self.bake.texture_px}, expected at least 16 times the "
                f"unwrap padding_px of {self.unwrap.padding_px}."
            )
        check_choice("fuse method", self.method, FUSE_METHODS)
        check_choice("fuse fallback", self.fallback, FALLBACKS)

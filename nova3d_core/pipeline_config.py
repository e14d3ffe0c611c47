"""Settings of the whole way from views to a textured mesh."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from .errors import InputError
from .fusion.config import HullConfig
from .meshing.config import MeshingConfig
from .meshing.unwrap_config import UnwrapConfig
from .texturing.config import BakeConfig

FuseMethod = Literal["hull"]
FUSE_METHODS: tuple[str, ...] = get_args(FuseMethod)


@dataclass(frozen=True)
class FuseConfig:
    """How views become a textured mesh."""

    method: FuseMethod = "hull"
    """hull: what the masks leave of space, carved."""
    hull: HullConfig = field(default_factory=HullConfig)
    """Carving."""
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
        if self.method not in FUSE_METHODS:
            raise InputError(
                f"fuse method is '{self.method}', expected one of {', '.join(FUSE_METHODS)}."
            )

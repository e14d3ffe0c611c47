"""The metallic-roughness material of a mesh, besides its base colour (glTF 2.0)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .checks import check_finite, check_shape
from .errors import InputError

MAPS = ("metallic_roughness", "normal_map", "emissive")
_LABELS = {
    "metallic_roughness": "metallic-roughness map",
    "normal_map": "normal map",
    "emissive": "emissive map",
}
_FACTORS = (
    "metallic_factor",
    "roughness_factor",
    "normal_scale",
    "occlusion_strength",
    "emissive_strength",
)


@dataclass(frozen=True, eq=False)
class PbrMaterial:
    """Maps and factors of a material; the base colour is the mesh's texture or vertex colours.

    The maps use the mesh's uv and may differ in size. A factor multiplies its map. The defaults
    are those of a mesh without a material: non-metallic, rough, single-sided, lit.

    Raises:
        InputError: wrong shapes, NaN, or occlusion without the map that contains it.
    """

    metallic_roughness: Tensor | None = None
    """(H, W, 3) float32 linear in 0..1: green roughness, blue metallic, red ambient occlusion if
    `has_occlusion`."""
    has_occlusion: bool = False
    """Whether the red channel of `metallic_roughness` is ambient occlusion."""
    normal_map: Tensor | None = None
    """(H, W, 3) float32 tangent-space normals as 0.5 n + 0.5, +Y up (OpenGL)."""
    emissive: Tensor | None = None
    """(H, W, 3) float32 sRGB in 0..1."""
    metallic_factor: float = 0.0
    roughness_factor: float = 1.0
    normal_scale: float = 1.0
    occlusion_strength: float = 1.0
    emissive_factor: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Linear RGB in 0..1."""
    emissive_strength: float = 1.0
    """Multiplies the emission; may exceed 1 (KHR_materials_emissive_strength)."""
    double_sided: bool = False
    """Whether back faces are visible."""
    unlit: bool = False
    """Whether the base colour is displayed without shading (KHR_materials_unlit)."""

    def __post_init__(self):
        for name in MAPS:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, value.float())
                check_shape(_LABELS[name], value, "H W 3")
                check_finite(_LABELS[name], value)
        if self.has_occlusion and self.metallic_roughness is None:
            raise InputError("the material has occlusion but no metallic-roughness map.")
        object.__setattr__(self, "emissive_factor", tuple(map(float, self.emissive_factor)))
        values = [*self.emissive_factor, *(getattr(self, name) for name in _FACTORS)]
        if len(self.emissive_factor) != 3 or not all(map(math.isfinite, values)):
            raise InputError("the material's factors are not finite numbers.")

    def to(self, device: torch.device | str) -> PbrMaterial:
        """The same material on another device."""
        return replace(self, **{name: value.to(device) for name, value in self.maps.items()})

    @property
    def maps(self) -> dict[str, Tensor]:
        """The maps that the material has, by field name."""
        values = {name: getattr(self, name) for name in MAPS}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def is_emissive(self) -> bool:
        """Whether it emits light; its emissive factor multiplies its map."""
        return any(value > 0.0 for value in self.emissive_factor)

    @property
    def labels(self) -> list[str]:
        """Names of what the material has beyond a plain one, for messages."""
        labels = [_LABELS[name] for name in self.maps]
        if self.has_occlusion:
            labels.append("occlusion map")
        if self.is_emissive and self.emissive is None:
            labels.append("emission")
        if self.metallic_roughness is None and self.metallic_factor > 0.0:
            labels.append("metallic factor")
        if self.double_sided:
            labels.append("double-sidedness")
        if self.unlit:
            labels.append("unlit shading")
        return labels

    def without_maps(self) -> PbrMaterial | None:
        """The material for other uv: maps and the factors that multiply them have their defaults.

        None if nothing is left.
        """
        plain, changes = PbrMaterial(), dict.fromkeys(MAPS)
        if self.metallic_roughness is not None:
            changes |= {"metallic_factor": plain.metallic_factor, "has_occlusion": False}
            changes |= {"roughness_factor": plain.roughness_factor}
        if self.emissive is not None:
            changes |= {"emissive_factor": plain.emissive_factor}
        left = replace(self, **changes, normal_scale=1.0, occlusion_strength=1.0)
        return None if left.scalars == plain.scalars else left

    @property
    def scalars(self) -> tuple:
        """All values but the maps; equal for materials that differ only in maps."""
        names = (*_FACTORS, "emissive_factor", "has_occlusion", "double_sided", "unlit")
        return tuple(getattr(self, name) for name in names)

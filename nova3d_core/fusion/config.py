"""Settings of the visual hull and of the de-conflict fusion, and its presets.

Users set the fields that are not marked INTERNAL; the others are tuned together with the presets.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from dataclasses import field as dataclass_field
from typing import Literal, get_args

from ..checks import INTERNAL, check_bounds, check_choice
from ..errors import InputError
from .losses import LossConfig

FieldKind = Literal["grid", "hashgrid"]
FIELD_KINDS: tuple[str, ...] = get_args(FieldKind)

ConflictMode = Literal["model", "field", "robust", "off"]
CONFLICT_MODES: tuple[str, ...] = get_args(ConflictMode)

InitKind = Literal["hull", "sphere"]
INIT_KINDS: tuple[str, ...] = get_args(InitKind)

Preset = Literal["draft", "fast", "quality"]
PRESETS: tuple[str, ...] = get_args(Preset)


@dataclass(frozen=True)
class HullConfig:
    """Visual hull: the space that remains after carving with every mask."""

    resolution: int = 224
    """Grid cells along the longest side of the object."""
    ridge_rounding: float = dataclass_field(default=0.5, metadata=INTERNAL)
    """Radius of the ridges between the views' cones, relative to the local thickness of the
    silhouettes; 0 keeps the exact hull with its sharp ridges."""

    def __post_init__(self):
        check_bounds(self, "hull", resolution=(16, 1024), ridge_rounding=(0.0, 1.0))


@dataclass(frozen=True)
class PoseConfig:
    """Pose refinement: step sizes and the prior on pose errors."""

    warmup_fraction: float = 0.25
    """Fraction of the first level's steps before any pose moves."""
    prior_sigma_deg: float = 3.0
    """Standard deviation of the rotation error of input poses that do not fit the silhouettes."""
    translation_per_radian: float = 0.5
    """World units of translation per radian of rotation, in step sizes and in the prior."""
    silhouette_prior_scale: float = 0.03
    """Minimum scale of pose steps and prior sigma, used where the input poses already agree with
    the silhouettes: a coarse surface would move them away."""
    max_rotation_deg: float = 12.0
    """Views that rotate farther than this from their input pose are reset to it."""

    def __post_init__(self):
        check_bounds(
            self,
            "poses",
            warmup_fraction=(0.0, 1.0),
            prior_sigma_deg=(0.01, 45.0),
            translation_per_radian=(0.0, 10.0),
            silhouette_prior_scale=(1e-3, 1.0),
            max_rotation_deg=(0.0, 90.0),
        )


@dataclass(frozen=True)
class ConflictConfig:
    """Conflict between views: H of eq. 4 and 5."""

    mode: ConflictMode = "model"
    """model: H learned as a smooth map per view; field: H learned by the paper's network of eq. 4,
    only with the field hashgrid; robust: closed-form minimum of eq. 5 per pixel; off: H = 0."""
    match_exposure: bool = True
    """Fit a gain per colour channel to each view but the first."""
    start_fraction: float = dataclass_field(default=0.3, metadata=INTERNAL)
    """Fraction of all steps during which H stays 0."""
    lambda0_start: float = dataclass_field(default=1.0, metadata=INTERNAL)
    """lambda0 of eq. 5 when H starts to grow."""
    lambda0_end: float = dataclass_field(default=0.2, metadata=INTERNAL)
    """lambda0 at the last step."""
    map_stride_px: int = dataclass_field(default=8, metadata=INTERNAL)
    """model: pixels per cell of the maps of H, which are bilinear in between."""
    mean_budget: float = dataclass_field(default=0.15, metadata=INTERNAL)
    """model, field: mean H of a view above which it is penalised."""
    front_view_max: float = dataclass_field(default=0.1, metadata=INTERNAL)
    """Maximum of H in view 0, from which the other views were generated."""
    min_normal_weight: float = dataclass_field(default=0.3, metadata=INTERNAL)
    """Minimum weight of normals where views conflict."""

    def __post_init__(self):
        check_choice("conflict mode", self.mode, CONFLICT_MODES)
        check_bounds(
            self,
            "conflict",
            start_fraction=(0.0, 1.0),
            lambda0_start=(0.01, 100.0),
            lambda0_end=(0.01, 100.0),
            map_stride_px=(1, 256),
            mean_budget=(0.0, 1.0),
            front_view_max=(0.0, 1.0),
            min_normal_weight=(0.0, 1.0),
        )


@dataclass(frozen=True)
class LevelConfig:
    """One coarse-to-fine level."""

    resolution: int
    """Grid cells along the longest side of the object."""
    steps: int
    """Optimisation steps."""
    ray_fraction: float
    """Fraction of the rays near the object in each step; at least `SdfFusionConfig.min_rays`."""
    _: KW_ONLY
    sharpness: float = 1.0
    """NeuS' s times the cell size."""
    sdf_lr_cells: float = 0.08
    """Learning rate of signed distances, in cells."""
    pose_lr: float = 1e-3
    """Initial learning rate of poses, in radians."""
    colour_lr: float = 0.05
    """Learning rate of colours."""
    register_every: int = 0
    """Steps between registrations of all views to the surface, which replace pose gradients; 0:
    never."""
    register_stride: int = 1
    """Registration uses every n-th row and column of the images."""
    robust_scale_end: float = 1.0
    """Factor to which the scale of registration's robust weights falls over the level. Large
    residuals come from wrong poses at first, later from thin parts and sharp edges only, which
    bias the poses."""
    max_rays: int = 0
    """Maximum rays per step, whatever `ray_fraction` gives; 0: no limit."""
    align_every: int = 0
    """Steps between estimates of smooth warps of the views, which stop after the first one if the
    views agree; 0: never."""
    soft_masks: bool = False
    """Compare with masks as soft as the rendered silhouettes."""
    mask_weight: float = 1.0
    """Factor on the weight of L_mask: residuals against soft masks are small."""
    stereo_every: int = 0
    """Steps between plane sweeps around the surface, whose depths L_depth uses; 0: none."""
    stereo_band: float = 0.03
    """Maximum depth offset of a sweep into the object, relative to its longest side."""
    stereo_downsampling: int = 1
    """Factor by which the images of a sweep are downsampled."""
    stereo_keeps_details: bool = False
    """With normals, stereo only moves the surface as a whole."""
    stereo_stride_px: int = 2
    """A sweep has patches around every n-th row and column of these images."""

    def __post_init__(self):
        check_bounds(
            self,
            "level",
            resolution=(8, 1024),
            steps=(1, 100_000),
            ray_fraction=(1e-4, 1.0),
            sharpness=(0.1, 10.0),
            sdf_lr_cells=(1e-4, 1.0),
            pose_lr=(0.0, 0.1),
            colour_lr=(0.0, 1.0),
            register_every=(0, 1000),
            register_stride=(1, 16),
            robust_scale_end=(0.01, 1.0),
            max_rays=(0, 10**9),
            align_every=(0, 100_000),
            mask_weight=(0.0, 1e6),
            stereo_every=(0, 1000),
            stereo_band=(1e-4, 1.0),
            stereo_downsampling=(1, 16),
            stereo_stride_px=(1, 64),
        )

    def num_rays(self, count: int, min_rays: int) -> int:
        """Rays per step out of `count`: the level's fraction, but at least `min_rays`."""
        number = max(round(self.ray_fraction * count), min_rays)
        return min(number, self.max_rays or number)


_MAX_RAYS_32, _MAX_RAYS_64 = 4000, 6000
"""Maximum rays per step of the levels with 32 and 64 cells: more than one per cell of the surface
suffices."""
_DRAFT = (
    LevelConfig(
        resolution=32,
        steps=36,
        ray_fraction=0.04,
        sdf_lr_cells=0.12,
        pose_lr=6e-3,
        max_rays=_MAX_RAYS_32,
    ),
    LevelConfig(
        resolution=64,
        steps=32,
        ray_fraction=0.05,
        sdf_lr_cells=0.12,
        pose_lr=3.5e-3,
        max_rays=_MAX_RAYS_64,
    ),
    LevelConfig(
        resolution=104,
        steps=28,
        ray_fraction=0.08,
        sharpness=1.4,
        sdf_lr_cells=0.10,
        pose_lr=8e-4,
        register_every=4,
        register_stride=2,
    ),
)
_FAST = (
    LevelConfig(
        resolution=32,
        steps=60,
        ray_fraction=0.04,
        sdf_lr_cells=0.10,
        pose_lr=6e-3,
        max_rays=_MAX_RAYS_32,
        stereo_every=30,
        stereo_band=0.2,
        stereo_downsampling=2,
    ),
    LevelConfig(
        resolution=64,
        steps=90,
        ray_fraction=0.04,
        sdf_lr_cells=0.10,
        pose_lr=4e-3,
        max_rays=_MAX_RAYS_64,
        stereo_every=45,
        stereo_band=0.08,
        stereo_downsampling=2,
    ),
    LevelConfig(
        resolution=112,
        steps=60,
        ray_fraction=0.10,
        sharpness=1.3,
        sdf_lr_cells=0.08,
        pose_lr=1.6e-3,
        colour_lr=0.1,
        register_every=6,
        align_every=20,
        stereo_every=30,
        stereo_keeps_details=True,
        max_rays=22_000,
    ),
    LevelConfig(
        resolution=192,
        steps=48,
        ray_fraction=0.14,
        sharpness=1.6,
        sdf_lr_cells=0.08,
        pose_lr=4e-4,
        colour_lr=0.1,
        register_every=8,
        align_every=24,
        stereo_every=24,
        stereo_band=0.012,
        stereo_keeps_details=True,
        robust_scale_end=0.45,
        max_rays=30_000,
        soft_masks=True,
        mask_weight=5.0,
    ),
)
_QUALITY = (
    *_FAST[:-1],
    replace(_FAST[-1], max_rays=0),
    replace(_FAST[-1], resolution=256, ray_fraction=0.4, max_rays=0),
)
_LEVELS = {"draft": _DRAFT, "fast": _FAST, "quality": _QUALITY}
_HASHGRID_RAY_SCALE = 0.1
"""The hash grid's rays per step relative to the dense grid's: networks are a hundred times slower
per ray, and autograd stores every one."""
_HASHGRID_MIN_RAYS = 2_000
_HASHGRID_LAMBDA0_END = 0.4
"""Its colours are more blurred when the few steps end, and blur alone is no conflict."""


@dataclass(frozen=True)
class SdfFusionConfig:
    """Fusion by joint optimisation of signed distance, colour, poses and conflict."""

    preset: Preset = "fast"
    """Coarse-to-fine levels: draft, fast (for CPUs) or quality (for GPUs)."""
    field: FieldKind = "grid"
    """grid: dense grid, fast; hashgrid: hash grid with small MLPs, as in the paper."""
    init: InitKind = "hull"
    """Initial surface. hull: visual hull of the masks; sphere: a sphere that encloses it."""
    losses: LossConfig = dataclass_field(default_factory=LossConfig)
    """Weights of the loss terms."""
    refine_poses: bool = True
    """Optimise the camera poses; view 0 keeps its pose exactly."""
    conflict: ConflictConfig = dataclass_field(default_factory=ConflictConfig)
    """Conflict between views."""
    use_normals: bool = True
    """Use the normals of the views, where there are any."""
    check_inputs: bool = True
    """Check for contradicting silhouettes and misdeclared normals first."""
    seed: int = 0
    """Seed of the ray sampling; on a CPU the same seed gives the same result bit for bit."""
    memory_gib: float = 0.0
    """Memory budget of the grid; levels that exceed it are made coarser. 0: 80% of a GPU's free
    memory, 3 GiB on a CPU."""
    levels: tuple[LevelConfig, ...] = dataclass_field(default=(), metadata=INTERNAL)
    """Coarse-to-fine levels; empty: those of the preset."""
    hull: HullConfig = dataclass_field(
        default_factory=lambda: HullConfig(resolution=112), metadata=INTERNAL
    )
    """Visual hull of the initialisation."""
    poses: PoseConfig = dataclass_field(default_factory=PoseConfig, metadata=INTERNAL)
    """Pose refinement."""
    min_rays: int = dataclass_field(default=10_000, metadata=INTERNAL)
    """Minimum rays per step, where there are that many."""
    ray_chunk_size: int = dataclass_field(default=400_000, metadata=INTERNAL)
    """Rays rendered together, which bounds the memory; halved when memory runs out."""

    def __post_init__(self):
        check_choice("sdf field", self.field, FIELD_KINDS)
        check_choice("sdf init", self.init, INIT_KINDS)
        check_bounds(
            self,
            "sdf",
            seed=(0, 2**31 - 1),
            min_rays=(1, 10**9),
            ray_chunk_size=(256, 10**9),
            memory_gib=(0.0, 1024.0),
        )
        check_choice("sdf preset", self.preset, PRESETS)
        if self.conflict.mode == "field" and self.field != "hashgrid":
            raise InputError(
                f"conflict mode is 'field', but the sdf field is '{self.field}'.",
                "Choose the sdf field 'hashgrid', or the conflict mode 'model'.",
            )

    def complete(self) -> SdfFusionConfig:
        """The same settings with the preset's levels filled in, where there are none."""
        if self.levels:
            return self
        levels = _LEVELS[self.preset]
        if self.field == "grid":
            return replace(self, levels=levels)
        fewer = tuple(
            replace(
                level,
                ray_fraction=level.ray_fraction * _HASHGRID_RAY_SCALE,
                register_every=0,
                align_every=0,
                stereo_every=0,
            )
            for level in levels
        )
        return replace(
            self,
            levels=fewer,
            conflict=replace(self.conflict, lambda0_end=_HASHGRID_LAMBDA0_END),
            min_rays=_HASHGRID_MIN_RAYS,
            ray_chunk_size=4 * _HASHGRID_MIN_RAYS,
        )

    @property
    def total_steps(self) -> int:
        """Steps of all levels."""
        return sum(level.steps for level in self.complete().levels)


def preset_config(name: Preset) -> SdfFusionConfig:
    """All settings of a preset: draft, fast (for CPUs) or quality (for GPUs).

    Raises:
        InputError: for an unknown name.
    """
    return SdfFusionConfig(preset=name).complete()

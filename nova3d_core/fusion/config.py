"""Settings of the visual hull and of the de-conflict fusion, and its presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from dataclasses import field as made_by
from typing import Literal, get_args

from ..checks import check_bounds, check_choice

FieldKind = Literal["grid", "hashgrid"]
FIELD_KINDS: tuple[str, ...] = get_args(FieldKind)

ConflictMode = Literal["model", "robust", "off"]
CONFLICT_MODES: tuple[str, ...] = get_args(ConflictMode)

StartKind = Literal["hull", "sphere"]
START_KINDS: tuple[str, ...] = get_args(StartKind)

Preset = Literal["draft", "fast", "quality"]
PRESETS: tuple[str, ...] = get_args(Preset)


@dataclass(frozen=True)
class HullConfig:
    """Visual hull: what is left of space after every mask has carved it."""

    resolution: int = 224
    """Grid cells along the longest side of the object."""
    mask_upsampling: int = 4
    """Distance transforms are taken on masks up to this many times larger, for sub-pixel edges; on
    images beyond 256 px less, as they need it less."""
    ridge_rounding: float = 0.5
    """Radius of the ridges between views, as a share of the object's local thickness; 0 keeps the
    exact hull, whose ridges stand out over the object."""
    padding_cells: int = 3
    """Empty cells around the object, so that the surface is closed."""

    def __post_init__(self):
        check_bounds(
            self,
            "hull",
            resolution=(16, 1024),
            mask_upsampling=(1, 8),
            ridge_rounding=(0.0, 1.0),
            padding_cells=(2, 64),
        )


@dataclass(frozen=True)
class LossConfig:
    """Weights of eq. 6."""

    colour: float = 0.3
    """L_color, eq. 5: the distance of colours, less where views conflict."""
    normal: float = 1.0
    """L_normal: 1 - cosine between rendered and given normals, weighted by exp |cos| to the ray."""
    mask: float = 1.0
    """L_mask: squared difference of opacity and mask."""
    eikonal: float = 0.1
    """R_eik: squared difference of the gradient's length from 1."""
    sparse: float = 0.0
    """R_sparse: exp(-k |f|), against floaters; the hull's start leaves none, so it rests."""
    smooth: float = 2e-7
    """R_smooth: squared Laplacian of the distances."""
    drop_share: float = 0.0
    """Share of the rays with the largest error that L_normal leaves out."""

    def __post_init__(self):
        names = ("colour", "normal", "mask", "eikonal", "sparse", "smooth")
        check_bounds(self, "loss", **dict.fromkeys(names, (0.0, 1e6)), drop_share=(0.0, 0.9))


@dataclass(frozen=True)
class PoseConfig:
    """Refinement of the cameras' poses."""

    refine: bool = True
    """Let the poses move; view 0 comes out exactly as it was given."""
    warm_up: float = 0.25
    """Share of the first level's steps before any pose moves."""
    spread_deg: float = 3.0
    """Standard deviation of the given poses' turns, where they do not fit the silhouettes."""
    shift_per_turn: float = 0.5
    """World units of shift for each radian of turn, in steps and in what errors are expected."""
    trust: float = 0.03
    """How much smaller steps and expected errors are where the given poses already fit the
    silhouettes: then only the last bit is to be found, and a coarse surface would mislead."""
    max_turn_deg: float = 12.0
    """No view turns farther than this from the pose it was given with."""

    def __post_init__(self):
        check_bounds(
            self,
            "poses",
            warm_up=(0.0, 1.0),
            spread_deg=(0.01, 45.0),
            shift_per_turn=(0.0, 10.0),
            trust=(1e-3, 1.0),
            max_turn_deg=(0.0, 90.0),
        )


@dataclass(frozen=True)
class ConflictConfig:
    """Conflict between views: H of eq. 4 and 5."""

    mode: ConflictMode = "model"
    """model: the learnt H of eq. 4; robust: eq. 5's closed form for a free H; off: H = 0."""
    begin: float = 0.3
    """Share of all steps before H may grow."""
    price_start: float = 1.0
    """lambda0 of eq. 5 where H begins to grow."""
    price_end: float = 0.2
    """lambda0 at the end."""
    cell_px: int = 8
    """model: H changes smoothly over this many pixels."""
    budget: float = 0.15
    """model: a view's mean H beyond this costs extra."""
    front_cap: float = 0.1
    """H of view 0, the image all others were made from, stays below this."""
    normal_floor: float = 0.3
    """Normals where views conflict keep at least this weight."""
    match_exposure: bool = True
    """Let each view but the first have a gain per colour channel."""

    def __post_init__(self):
        check_choice("conflict mode", self.mode, CONFLICT_MODES)
        check_bounds(
            self,
            "conflict",
            begin=(0.0, 1.0),
            price_start=(0.01, 100.0),
            price_end=(0.01, 100.0),
            cell_px=(1, 256),
            budget=(0.0, 1.0),
            front_cap=(0.0, 1.0),
            normal_floor=(0.0, 1.0),
        )


@dataclass(frozen=True)
class LevelConfig:
    """One level of coarse-to-fine."""

    resolution: int
    """Cells along the longest side of the object."""
    steps: int
    """Optimisation steps."""
    ray_share: float
    """Share of the pixels near the object that each step looks at; see `SdfFusionConfig`."""
    sharpness: float = 1.0
    """NeuS' s times the cell size."""
    step_cells: float = 0.08
    """How far a value moves in a step, in cells."""
    turn_rad: float = 1e-3
    """How far a pose turns in a step at first, by gradients."""
    colour_step: float = 0.05
    """How far a colour moves in a step."""
    align_every: int = 0
    """Align all views with the surface at every so many steps, in place of gradients; 0: never."""
    align_stride: int = 1
    """Aligning looks at every so many-th row and column of the images."""
    align_bound_end: float = 1.0
    """The bound beyond which aligning counts differences less falls to this share. Wrong poses make
    large differences; later they stay at thin parts and sharp edges only, and pull views askew."""
    most_rays: int = 0
    """No step looks at more rays, however many pixels there are; 0: no such limit."""
    soft_masks: bool = False
    """Compare with masks as soft as the field's own edges, which silhouettes can then meet."""
    mask_weight: float = 1.0
    """Times the weight of L_mask: soft masks leave small differences, which count for more."""

    def __post_init__(self):
        check_bounds(
            self,
            "level",
            resolution=(8, 1024),
            steps=(1, 100_000),
            ray_share=(1e-4, 1.0),
            sharpness=(0.1, 10.0),
            step_cells=(1e-4, 1.0),
            turn_rad=(0.0, 0.1),
            colour_step=(0.0, 1.0),
            align_every=(0, 1000),
            align_stride=(1, 16),
            align_bound_end=(0.01, 1.0),
            most_rays=(0, 10**9),
            mask_weight=(0.0, 1e6),
        )

    def rays(self, count: int, least: int) -> int:
        """How many of `count` rays a step looks at: its share, or at least so many."""
        wanted = max(round(self.ray_share * count), least)
        return min(wanted, self.most_rays or wanted)


_DRAFT = (
    LevelConfig(32, 36, 0.04, 1.0, 0.12, 6e-3),
    LevelConfig(64, 32, 0.05, 1.0, 0.12, 3.5e-3),
    LevelConfig(104, 28, 0.08, 1.4, 0.10, 8e-4, align_every=4, align_stride=2),
)
_FAST = (
    LevelConfig(32, 60, 0.04, 1.0, 0.10, 6e-3),
    LevelConfig(64, 90, 0.04, 1.0, 0.10, 4e-3),
    LevelConfig(112, 60, 0.10, 1.3, 0.08, 1.6e-3, 0.1, align_every=6, most_rays=22_000),
    LevelConfig(
        resolution=192,
        steps=48,
        ray_share=0.14,
        sharpness=1.6,
        step_cells=0.08,
        turn_rad=4e-4,
        colour_step=0.1,
        align_every=8,
        align_bound_end=0.45,
        most_rays=30_000,
        soft_masks=True,
        mask_weight=5.0,
    ),
)
_QUALITY = (
    *_FAST[:-1],
    replace(_FAST[-1], most_rays=0),
    replace(_FAST[-1], resolution=256, ray_share=0.4, most_rays=0),
)
_HASHGRID_SHARE = 0.1
_HASHGRID_RAYS = 2_000
_LEVELS = {"draft": _DRAFT, "fast": _FAST, "quality": _QUALITY}


@dataclass(frozen=True)
class SdfFusionConfig:
    """Views to a surface by optimising signed distance, colour, poses and conflict together."""

    preset: Preset = "fast"
    """draft, fast (for CPUs) or quality (for GPUs): which levels are gone through."""
    field: FieldKind = "grid"
    """grid: dense and fast; hashgrid: hash grid and small networks, as in the paper."""
    start: StartKind = "hull"
    """hull: the silhouettes' visual hull; sphere: a ball that holds it."""
    hull: HullConfig = made_by(default_factory=lambda: HullConfig(resolution=112))
    """The hull to start from."""
    inflate: float = 0.012
    """The start is made larger by up to this, over the longest side: wrong poses carve too much
    away."""
    levels: tuple[LevelConfig, ...] = ()
    """Coarse to fine; the preset's if there are none."""
    loss: LossConfig = made_by(default_factory=LossConfig)
    """Weights of the terms."""
    poses: PoseConfig = made_by(default_factory=PoseConfig)
    """Pose refinement."""
    conflict: ConflictConfig = made_by(default_factory=ConflictConfig)
    """Conflict between views."""
    use_normals: bool = True
    """Use the views' normals where they have some."""
    margin_px: int = 5
    """Pixels this far outside the masks are looked at, too."""
    seed: int = 0
    """Start of the random choice of rays; the same seed repeats bit for bit on a CPU."""
    min_rays: int = 10_000
    """A step looks at this many rays, where there are so many and the level's share is less."""
    max_rays: int = 400_000
    """Rays at once, which bounds the memory; halved and tried again when memory runs out."""
    memory_gib: float = 0.0
    """Levels whose grids would need more than this are made coarser; 0: 80% of a GPU's free memory,
    3 GiB on a CPU."""
    check_inputs: bool = True
    """Look for contradicting silhouettes and misread normals before starting."""

    def __post_init__(self):
        check_choice("sdf field", self.field, FIELD_KINDS)
        check_choice("sdf start", self.start, START_KINDS)
        check_bounds(
            self,
            "sdf",
            inflate=(0.0, 0.2),
            margin_px=(0, 256),
            seed=(0, 2**31 - 1),
            min_rays=(1, 10**9),
            max_rays=(256, 10**9),
            memory_gib=(0.0, 1024.0),
        )
        check_choice("sdf preset", self.preset, PRESETS)

    def complete(self) -> SdfFusionConfig:
        """The same settings with the preset's levels written out, where none were given."""
        if self.levels:
            return self
        levels = _LEVELS[self.preset]
        if self.field == "grid":
            return replace(self, levels=levels)
        # networks take a hundred times longer for a ray, and autograd remembers each
        fewer = tuple(
            replace(level, ray_share=level.ray_share * _HASHGRID_SHARE, align_every=0)
            for level in levels
        )
        return replace(self, levels=fewer, min_rays=_HASHGRID_RAYS, max_rays=4 * _HASHGRID_RAYS)

    @property
    def total_steps(self) -> int:
        """Steps of all levels."""
        return sum(level.steps for level in self.complete().levels)


def preset_config(name: Preset) -> SdfFusionConfig:
    """All settings of a preset: draft, fast (for CPUs) or quality (for GPUs).

    Raises:
        InputError: for another name.
    """
    return SdfFusionConfig(preset=name).complete()

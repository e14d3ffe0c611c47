"""Settings of a training run. Defaults: the paper's, for NOVA3D initialised from SVD."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from ..checks import check_bounds, check_choice
from ..diffusion.families import FAMILIES, SCENE_FAMILY
from ..diffusion.network.config import CAMERA_TASK_DIM, UNetConfig
from ..diffusion.network.token_transformer_config import TokenTransformerConfig
from ..errors import InputError
from .data.config import AugmentationConfig
from .data.orbits import TRAINING_ORBITS
from .joint.config import FAMILY as JOINT_FAMILY
from .joint.config import JointConfig
from .scenes.config import SceneConfig

DataSource = Literal["shards", "procedural"]
DATA_SOURCES: tuple[str, ...] = get_args(DataSource)
Precision = Literal["float32", "bfloat16", "autocast"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
LrSchedule = Literal["constant", "cosine"]
LR_SCHEDULES: tuple[str, ...] = get_args(LrSchedule)
OptimiserName = Literal["adamw", "muon"]
OPTIMISER_NAMES: tuple[str, ...] = get_args(OptimiserName)


@dataclass(frozen=True)
class NetworkConfig:
    """Network of a run from random weights; a run that starts from a file uses the file's."""

    unet: UNetConfig = field(
        default_factory=lambda: UNetConfig(
            add_embed_dim=256, domains=2, alignment="gta", camera_task_dim=CAMERA_TASK_DIM
        )
    )
    """Widths and depths. Input channels are twice the codec's latent channels."""
    codec_factor: int = 4
    """Downsampling factor of the weightless pixel codec."""
    codec_dct_weights: tuple[float, ...] = ()
    """Weights of the codec's DCT coefficients by order; empty: latents hold every pixel."""
    codec_std: float = 0.435
    """Standard deviation of the codec's unscaled latents."""
    encoder_channels: int = 32
    """Width of the small image encoder."""
    residual_init_scale: float = 0.0
    """Initial scale of the last layer of each residual branch; 0 as in SVD."""
    transformer: TokenTransformerConfig | None = None
    """A token transformer, which replaces the UNet; None for the UNet."""

    def __post_init__(self):
        check_bounds(
            self,
            "training network",
            codec_factor=(1, 64),
            codec_dct_weights=(-1e6, 1e6),
            codec_std=(1e-6, 1e6),
            encoder_channels=(8, 1024),
            residual_init_scale=(0.0, 10.0),
        )


@dataclass(frozen=True)
class DataConfig:
    """Training and validation data."""

    source: DataSource = "shards"
    """shards: tar files written by `render-dataset`; procedural: generated during training."""
    shards: tuple[str, ...] = ()
    """Training shards: files, folders, or patterns such as data/train-*.tar."""
    held_out: tuple[str, ...] = ()
    """Validation shards; procedural objects if empty."""
    size_px: int = 256
    """Width and height of the images."""
    views_per_step: int = 0
    """Views of an object that a step trains on: the input view and random others, for a token
    transformer only; 0 for all."""
    prefetch_batches: int = 4
    """Batches loaded in the background; 0 loads each when it is needed."""

    def __post_init__(self):
        check_choice("training data source", self.source, DATA_SOURCES)
        check_bounds(
            self,
            "training data",
            size_px=(8, 2048),
            views_per_step=(0, 1000),
            prefetch_batches=(0, 1000),
        )


@dataclass(frozen=True)
class NoiseStage:
    """Log-normal distribution of noise levels, ln(sigma) ~ N(mean, std^2), from `start` on."""

    start: float
    """Fraction of the run's steps at which the stage begins, 0 to 1."""
    mean: float
    """P_mean."""
    std: float
    """P_std."""

    def __post_init__(self):
        check_bounds(self, "training noise", start=(0.0, 1.0), mean=(-20.0, 20.0), std=(0.0, 20.0))


PAPER_STAGES = (
    NoiseStage(0.0, 1.0, 1.6),
    NoiseStage(8 / 30, 1.8, 1.6),
    NoiseStage(16 / 30, 2.2, 1.8),
    NoiseStage(24 / 30, 2.5, 2.0),
)
"""The paper's stages: from steps 0, 8k, 16k and 24k of 30k."""


@dataclass(frozen=True)
class ConditioningConfig:
    """Conditioning during training: dropout and augmentation."""

    dropout: float = 0.1
    """Probability p of each kind of conditioning dropout: the embedding only, embedding and latent,
    the latent only. Drawn per object, for all its views and both domains."""
    independent_dropout: bool = False
    """Drop embedding and latent independently, each with probability `dropout`, as for SVD, SV3D
    and V3D; at most 1 instead of 1/3."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Augmentation of the input image; ignored where latents are precomputed."""

    def __post_init__(self):
        highest = 1.0 if self.independent_dropout else 1 / 3
        check_bounds(self, "training", dropout=(0.0, highest))


@dataclass(frozen=True)
class OptimiserConfig:
    """Optimiser, learning-rate schedule, and exponential moving average (EMA) of the weights."""

    name: OptimiserName = "adamw"
    """muon: orthogonalised updates for hidden matrices, AdamW for the rest. For short runs from
    random weights; needs unsharded weights (DDP)."""
    steps: int = 30_000
    """Optimiser steps of the run."""
    batch_size: int = 176
    """Objects of a step, over all processes."""
    micro_batch_size: int = 22
    """Objects of one forward pass; gradients of the rest of the batch are accumulated."""
    learning_rate: float = 2e-5
    """Peak learning rate."""
    muon_lr_ratio: float = 0.5
    """muon: learning rate of orthogonalised updates, relative to `learning_rate`."""
    lr_schedule: LrSchedule = "constant"
    """Learning rate after the warm-up; cosine decays to `min_lr_ratio`."""
    min_lr_ratio: float = 0.01
    """Final learning rate of the cosine schedule, relative to `learning_rate`."""
    warmup_steps: int = 500
    """Steps of linear warm-up from 0."""
    betas: tuple[float, ...] = (0.9, 0.999)
    """AdamW's betas; the first is muon's momentum too."""
    weight_decay: float = 0.01
    """Weight decay of matrices and convolutions; norms and biases have none."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    ema_decay: float = 0.9999
    """Decay of the EMA; min(ema_decay, (1 + n) / (10 + n)) at update n."""

    def __post_init__(self):
        check_bounds(
            self,
            "training",
            steps=(1, 10**9),
            batch_size=(1, 10**6),
            micro_batch_size=(1, 10**6),
            learning_rate=(0.0, 10.0),
            muon_lr_ratio=(0.0, 100.0),
            min_lr_ratio=(0.0, 1.0),
            warmup_steps=(0, 10**9),
            weight_decay=(0.0, 10.0),
            max_grad_norm=(1e-6, 1e6),
            ema_decay=(0.0, 1.0),
            betas=(0.0, 1.0),
        )
        check_choice("optimiser name", self.name, OPTIMISER_NAMES)
        check_choice("learning-rate schedule", self.lr_schedule, LR_SCHEDULES)
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise InputError(f"training betas are {self.betas}, expected two values in 0..1.")


@dataclass(frozen=True)
class RunConfig:
    """Logging, checkpoints and validation; all of it may change when a run resumes."""

    log_steps: int = 20
    """Steps between log entries."""
    checkpoint_steps: int = 1000
    """Steps between checkpoints."""
    checkpoint_minutes: float = 20.0
    """A checkpoint is also written after this many minutes; 0 for never."""
    max_checkpoints: int = 2
    """Newest checkpoints to keep."""
    sample_grid_steps: int = 1000
    """Steps between sample grids; 0 for none."""
    sample_grid_objects: int = 3
    """Held-out objects in a sample grid."""
    validation_steps: int = 2000
    """Steps between validations; 0 for none."""
    validation_objects: int = 16
    """Held-out objects to sample and measure."""
    sampling_steps: int = 0
    """Denoising steps for sample grids and validation; 0 for the family's default."""
    max_consecutive_skips: int = 20
    """The run stops after this many consecutive steps with a non-finite loss or gradient."""
    tensorboard: bool = True
    """Also write curves and sample grids for TensorBoard."""

    def __post_init__(self):
        at_least_one = ("log_steps", "checkpoint_steps", "max_checkpoints", "max_consecutive_skips")
        check_bounds(
            self,
            "training",
            **dict.fromkeys(at_least_one, (1, 10**9)),
            sample_grid_steps=(0, 10**9),
            sample_grid_objects=(0, 10**6),
            validation_steps=(0, 10**9),
            validation_objects=(0, 10**6),
            sampling_steps=(0, 1000),
            checkpoint_minutes=(0.0, 1e6),
        )


@dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    family: str = "nova3d"
    """Model family to train: a key of `FAMILIES`, or v3d_scenes."""
    start: str = ""
    """Checkpoint to start from: SVD, or a model of the family. Empty: random weights."""
    seed: int = 0
    """Seed of everything random: weights, order of the data, noise."""
    precision: Precision = "bfloat16"
    """Compute dtype of the network; weights, EMA and loss are always float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """The network, if `start` is empty."""
    data: DataConfig = field(default_factory=DataConfig)
    """Training and validation data."""
    input_view_weight: float = 1.0
    """Weight of the input view in the loss relative to the opposite view; weights grow linearly
    with the angle from the input view, and their mean is 1. SV3D's is below 1."""
    loss_sigma_floor: float = 0.0
    """Noise levels sigma weigh sigma^2 / (sigma^2 + floor^2) in the loss. EDM's weight, which 0
    keeps, grows with 1 / sigma^2 for errors of the clean latents."""
    noise: tuple[NoiseStage, ...] = PAPER_STAGES
    """Distributions of the noise level, in order of their start."""
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    """Dropout and augmentation of the conditioning."""
    scene: SceneConfig = field(default_factory=SceneConfig)
    """Conditioner, clips and loss, for v3d_scenes only."""
    joint: JointConfig = field(default_factory=JointConfig)
    """Reconstruction model and feedback, for ouroboros3d only."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser and learning rate."""
    run: RunConfig = field(default_factory=RunConfig)
    """Logging, checkpoints and validation."""

    def __post_init__(self):
        check_choice("training family", self.family, (*FAMILIES, SCENE_FAMILY.name))
        check_choice("training precision", self.precision, PRECISIONS)
        check_bounds(
            self,
            "training",
            seed=(0, 2**31 - 1),
            input_view_weight=(0.0, 100.0),
            loss_sigma_floor=(0.0, 1e3),
        )
        trained = (*TRAINING_ORBITS, SCENE_FAMILY.name)
        if self.family not in trained:
            raise InputError(
                f"family {self.family} cannot be trained here: its network is not a video UNet "
                "that predicts v.",
                f"Train {', '.join(trained)}.",
            )
        if self.loss_sigma_floor and self.family in (SCENE_FAMILY.name, JOINT_FAMILY):
            raise InputError(
                f"loss_sigma_floor has no effect on family {self.family}; set it to 0."
            )
        starts = [stage.start for stage in self.noise]
        if not starts or starts[0] != 0.0 or starts != sorted(starts) or starts[-1] > 1.0:
            raise InputError(
                f"training noise stages start at {starts}, expected increasing fractions of the "
                "run from 0 to at most 1."
            )


FREE_TO_CHANGE = (
    "run.", "optimiser.micro_batch_size", "gradient_checkpointing", "data.prefetch_batches"
)  # fmt: skip
"""Settings that do not affect the result, or only its rounding."""


def changed_settings(old: dict[str, Any], new: TrainConfig) -> list[str]:
    """Differences between a run's settings and new ones, as "name: old -> new".

    Args:
        old: the run's settings as plain containers.
        new: the settings to resume with.
    """
    before, after = flatten_settings(old), flatten_settings(asdict(new))
    absent = "absent"
    return [
        f"{name}: {before.get(name, absent)} -> {after.get(name, absent)}"
        for name in dict.fromkeys([*before, *after])
        if not name.startswith(FREE_TO_CHANGE)
        and before.get(name, absent) != after.get(name, absent)
    ]


def flatten_settings(document: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted name; tuples become lists."""
    if isinstance(document, dict):
        items = [(str(key), value) for key, value in document.items()]
    elif isinstance(document, list | tuple) and any(isinstance(v, dict) for v in document):
        items = [(str(index), value) for index, value in enumerate(document)]
    else:
        return {prefix: list(document) if isinstance(document, tuple) else document}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flatten_settings(value, f"{prefix}.{key}" if prefix else key)
    return flat

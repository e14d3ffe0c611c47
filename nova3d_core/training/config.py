"""The settings of a training run; the defaults are the paper's, for NOVA3D out of SVD."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from ..checks import check_bounds, check_choice
from ..diffusion.families import FAMILIES
from ..diffusion.network.config import CAMERA_TASK_NUMBERS, UNetConfig
from ..errors import InputError

Source = Literal["shards", "procedural"]
SOURCES: tuple[str, ...] = get_args(Source)
Precision = Literal["float32", "bfloat16", "autocast"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
LearningRateCurve = Literal["constant", "cosine"]
CURVES: tuple[str, ...] = get_args(LearningRateCurve)
Method = Literal["adamw", "muon"]
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True)
class NetworkConfig:
    """The network of a run that starts from nothing; one that starts from a file takes its own."""

    unet: UNetConfig = field(
        default_factory=lambda: UNetConfig(
            added_numbers=256, domains=2, alignment="gta", camera_task_numbers=CAMERA_TASK_NUMBERS
        )
    )
    """Widths and depths; the codec's latent channels come in twice and go out once."""
    codec_factor: int = 4
    """Pixels along a latent's side of the codec without weights."""
    codec_cosines: tuple[float, ...] = ()
    """Weights of its cosines by order; none: it keeps every pixel."""
    codec_deviation: float = 0.435
    """Standard deviation of its numbers."""
    encoder_channels: int = 32
    """Width of the small image encoder."""
    small_residuals: float = 0.0
    """What the last layers of residual branches are scaled with at the start; 0 as in SVD."""

    def __post_init__(self):
        check_bounds(
            self,
            "training network",
            codec_factor=(1, 64),
            codec_cosines=(-1e6, 1e6),
            codec_deviation=(1e-6, 1e6),
            encoder_channels=(8, 1024),
            small_residuals=(0.0, 10.0),
        )


@dataclass(frozen=True)
class DataConfig:
    """What is learnt from."""

    source: Source = "shards"
    """shards: tar files that `render-dataset` wrote; procedural: made while training runs."""
    shards: tuple[str, ...] = ()
    """Files, folders or patterns like data/train-*.tar."""
    held_out: tuple[str, ...] = ()
    """Shards of objects that are never learnt from, for validation; procedural ones if empty."""
    size_px: int = 256
    """Width and height of the images."""
    ahead: int = 4
    """Batches that are made ready while the network computes."""

    def __post_init__(self):
        check_choice("training data source", self.source, SOURCES)
        check_bounds(
            self,
            "training data",
            size_px=(8, 2048),
            ahead=(0, 1000),
        )


@dataclass(frozen=True)
class NoiseStage:
    """A log-normal distribution of noise levels, ln(sigma) ~ N(mean, std^2), from a step on."""

    start: float
    """Share of the run's steps after which it holds, 0 to 1."""
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
"""At 0, 8k, 16k and 24k of 30k steps."""


@dataclass(frozen=True)
class ConditionConfig:
    """What the network is told in training beside the noise level, and what is kept from it."""

    dropout: float = 0.1
    """p: the embedding alone is left out of p of the objects, embedding and latent of another p,
    the latent alone of a third p; for all views and both domains of an object alike."""
    augmentation_mean: float = -3.0
    """Mean of ln(strength) of the noise on the input image."""
    augmentation_std: float = 0.5
    """Standard deviation of ln(strength)."""
    background_share: float = 0.5
    """Share of the objects whose input image gets a random grey or coloured background; what is
    painted always stands on white."""

    def __post_init__(self):
        check_bounds(
            self,
            "training",
            dropout=(0.0, 1 / 3),
            augmentation_mean=(-20.0, 5.0),
            augmentation_std=(0.0, 5.0),
            background_share=(0.0, 1.0),
        )


@dataclass(frozen=True)
class OptimiserConfig:
    """The optimiser, its learning rate over the run, and the moving average of the weights."""

    method: Method = "adamw"
    """muon: the matrices between layers take orthogonal steps, the rest AdamW's; for short runs
    that start from nothing, in whole processes (DDP)."""
    steps: int = 30_000
    """Length of the run."""
    batch: int = 176
    """Objects of a step, over all processes."""
    at_once: int = 22
    """Objects that a process computes together; more are accumulated."""
    learning_rate: float = 2e-5
    """Highest learning rate."""
    hidden_share: float = 0.5
    """muon: the orthogonal steps' learning rate, as a share of the other."""
    curve: LearningRateCurve = "constant"
    """What the learning rate does after the warm-up; cosine falls to `lowest_share`."""
    lowest_share: float = 0.01
    """The cosine's end, as a share of the highest rate."""
    warm_up: int = 500
    """Steps in which the learning rate grows from 0."""
    betas: tuple[float, ...] = (0.9, 0.999)
    """AdamW's two decays; the first is that of muon's averaged gradient too."""
    weight_decay: float = 0.01
    """Weight decay of matrices and convolutions; norms and biases have none."""
    clip: float = 1.0
    """Largest norm of the gradient; longer ones are shortened to it."""
    ema_decay: float = 0.9999
    """Decay of the moving average; smaller in the first steps, (1 + n) / (10 + n)."""

    def __post_init__(self):
        check_bounds(
            self,
            "training",
            steps=(1, 10**9),
            batch=(1, 10**6),
            at_once=(1, 10**6),
            learning_rate=(0.0, 10.0),
            hidden_share=(0.0, 100.0),
            lowest_share=(0.0, 1.0),
            warm_up=(0, 10**9),
            weight_decay=(0.0, 10.0),
            clip=(1e-6, 1e6),
            ema_decay=(0.0, 1.0),
            betas=(0.0, 1.0),
        )
        check_choice("training method", self.method, METHODS)
        check_choice("training curve", self.curve, CURVES)
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise InputError(f"training betas are {self.betas}, expected two numbers in 0..1.")


@dataclass(frozen=True)
class RunConfig:
    """How a run is watched and kept; all of it may change when a run goes on."""

    log_every: int = 20
    """Steps between two lines of the log."""
    checkpoint_steps: int = 1000
    """Steps between two checkpoints."""
    checkpoint_minutes: float = 20.0
    """Minutes after which a checkpoint is written too."""
    checkpoints: int = 2
    """Newest checkpoints that are kept."""
    sheet_steps: int = 1000
    """Steps between two sheets of samples; 0 for none."""
    sheet_objects: int = 3
    """Held-out objects on a sheet."""
    validation_steps: int = 2000
    """Steps between two validations; 0 for none."""
    validation_objects: int = 16
    """Held-out objects that are sampled and measured."""
    sampling_steps: int = 0
    """Denoising steps of sheets and validation; 0 for the family's own."""
    bad_steps: int = 20
    """Steps with a loss or gradient that is not finite, in a row, after which the run stops."""
    tensorboard: bool = True
    """Whether curves and sheets are also written for TensorBoard."""

    def __post_init__(self):
        at_least_one = ("log_every", "checkpoint_steps", "checkpoints", "bad_steps")
        check_bounds(
            self,
            "training",
            **dict.fromkeys(at_least_one, (1, 10**9)),
            sheet_steps=(0, 10**9),
            sheet_objects=(0, 10**6),
            validation_steps=(0, 10**9),
            validation_objects=(0, 10**6),
            sampling_steps=(0, 1000),
            checkpoint_minutes=(0.0, 1e6),
        )


@dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    family: str = "nova3d"
    """What is trained: a key of `FAMILIES`."""
    start: str = ""
    """A file to start from: SVD's, which NOVA3D grows out of, or one of the family's; none to
    start from nothing."""
    seed: int = 0
    """Start of every random number: weights, order of the data, noise."""
    precision: Precision = "bfloat16"
    """What the network computes in; weights, moving average and loss are always float32."""
    channels_last: bool = False
    """Keep convolutions' weights in the order that some kernels like better."""
    checkpointing: bool = False
    """Compute blocks again in the backward pass instead of keeping them in memory."""
    compiled: bool = False
    """Let torch compile the network; slow to start."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Without a file to start from: the network."""
    data: DataConfig = field(default_factory=DataConfig)
    """What is learnt from."""
    noise: tuple[NoiseStage, ...] = PAPER_STAGES
    """Distributions of the noise level, one after the other."""
    conditions: ConditionConfig = field(default_factory=ConditionConfig)
    """What the network is told."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """How it learns."""
    run: RunConfig = field(default_factory=RunConfig)
    """How the run is watched and kept."""

    def __post_init__(self):
        check_choice("training family", self.family, tuple(FAMILIES))
        check_choice("training precision", self.precision, PRECISIONS)
        check_bounds(
            self,
            "training",
            seed=(0, 2**31 - 1),
        )
        if FAMILIES[self.family].added != ("augmentation",):
            raise InputError(
                f"family {self.family} cannot be trained here: it is told more than the noise on "
                "its input image.",
                "Train nova3d or nova3d-mini.",
            )
        starts = [stage.start for stage in self.noise]
        if not starts or starts[0] != 0.0 or starts != sorted(starts) or starts[-1] > 1.0:
            raise InputError(
                f"training noise stages start at {starts}, expected shares of the run that begin "
                "with 0 and grow to at most 1."
            )


FREE_TO_CHANGE = ("run.", "optimiser.at_once", "compiled", "checkpointing", "data.ahead")
"""Settings that do not change what is learnt, or only its rounding."""


def differences(old: dict[str, Any], new: TrainConfig) -> list[str]:
    """What differs between the settings of a run and new ones, as "name: old -> new".

    Args:
        old: the run's settings as plain containers.
        new: those to go on with.
    """
    before, after = flat_settings(old), flat_settings(asdict(new))
    absent = "absent"
    return [
        f"{name}: {before.get(name, absent)} -> {after.get(name, absent)}"
        for name in dict.fromkeys([*before, *after])
        if not name.startswith(FREE_TO_CHANGE)
        and before.get(name, absent) != after.get(name, absent)
    ]


def flat_settings(document: Any, where: str = "") -> dict[str, Any]:
    """Leaves by dotted name; tuples and lists are the same."""
    if isinstance(document, dict):
        items = [(str(key), value) for key, value in document.items()]
    elif isinstance(document, list | tuple) and any(isinstance(v, dict) for v in document):
        items = [(str(index), value) for index, value in enumerate(document)]
    else:
        return {where: list(document) if isinstance(document, tuple) else document}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flat_settings(value, f"{where}.{key}" if where else key)
    return flat

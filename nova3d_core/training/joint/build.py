"""Builds the pair of networks of joint training, from files or with random weights."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ...compute.devices import seeded
from ...diffusion.codecs.small_encoder import SmallEncoder
from ...diffusion.families import FAMILIES
from ...diffusion.model import Codec, ImageEncoder
from ...diffusion.network.feedback_unet import FeedbackUNet
from ...diffusion.network.unet import VideoUNet
from ...errors import InputError
from ...perceptual.lpips import load_lpips
from ...progress import SILENT, Progress
from ...reconstruction.load import load_reconstruction
from ...reconstruction.network import Lgm
from ...recursion.load import coordinate_kind, find_reconstruction, is_recursive
from ...weights.discovery.built_in import resolve_model_file
from ...weights.discovery.companions import resolve_unet_file
from ...weights.discovery.locate import inspect_file
from ...weights.load import load_model, load_svd
from ..config import TrainConfig
from ..train_module import copy_weights, init_as_identity, make_pixel_codec
from .config import FAMILY, JointConfig
from .module import JointModule

logger = logging.getLogger(__name__)

TIME_CHANNELS = 128
"""Length of the sinusoidal embedding that is added to LGM."""


def build_joint_module(config: TrainConfig, progress: Progress = SILENT) -> JointModule:
    """The pair that a run trains: from SVD and LGM, from a pair, or with random weights.

    A run that starts from the first file of a pair also continues its reconstruction model: the
    one of `joint.reconstruction_start`, else the one next to `start`.

    Raises:
        InputError: a file is another model or missing; a network has no time embedding; LPIPS is
            missing.
    """
    joint = config.joint
    lpips = load_lpips("alex") if joint.lpips_weight else None
    pair = _start_pair(config)
    if pair is not None:
        _warn_of_other_coordinates(pair, joint)
        other = joint.reconstruction_start or str(find_reconstruction(pair, progress=progress))
        joint = replace(joint, reconstruction_start=other)
    reconstruction = build_reconstruction(joint, config.seed, progress, continued=pair)
    if config.start:
        unet, codec, encoder = _load_views_model(config, progress)
    else:
        network = config.network
        codec = make_pixel_codec(network)
        with seeded(config.seed):
            unet = FeedbackUNet(replace(network.unet, feedback_factor=codec.factor))
            encoder = SmallEncoder(network.encoder_channels, network.unet.context_dim)
        init_as_identity(unet, network.residual_init_scale)
        silence_feedback(unet)
    return JointModule(unet, encoder, codec, FAMILIES[FAMILY], reconstruction, config.joint, lpips)


def _start_pair(config: TrainConfig) -> Path | None:
    """The start file, if it is the first one of a pair."""
    if not config.start:
        return None
    path = resolve_unet_file(resolve_model_file(config.start))
    return path if is_recursive(path) else None


def _warn_of_other_coordinates(pair: Path, config: JointConfig) -> None:
    """Logs a warning if a pair was trained with other coordinate maps than those of the run."""
    kind = coordinate_kind(pair)
    if kind != config.coordinates and config.feedback in ("both", "coordinates"):
        logger.warning(
            "%s was trained with joint.coordinates = %s, this run uses %s.",
            pair,
            kind,
            config.coordinates,
        )


def _load_views_model(
    config: TrainConfig, progress: Progress
) -> tuple[FeedbackUNet, Codec, ImageEncoder]:
    """UNet, codec and image encoder of the start file: SVD, or the first file of a pair."""
    path = resolve_unet_file(resolve_model_file(config.start))
    found = inspect_file(path).identity
    if found is not None and found.family == FAMILY:
        model = load_model(path, dtype=torch.float32, with_feedback=True, progress=progress)
        return copy_weights(model.unet), model.codec, copy_weights(model.image_encoder)
    svd, codec, encoder = load_svd(path, dtype=torch.float32, progress=progress)
    unet = feedback_unet_from_svd(svd, codec.factor, config.seed)
    silence_feedback(unet)
    return unet, codec, encoder


def feedback_unet_from_svd(svd: VideoUNet, factor: int, seed: int = 0) -> FeedbackUNet:
    """A UNet with feedback whose other weights are SVD's, copied.

    Args:
        svd: an SVD UNet.
        factor: pixels per latent along a side.
        seed: of the new weights.
    """
    config = replace(svd.config, feedback_factor=factor)
    with seeded(seed):
        unet = FeedbackUNet(config)
    unet.load_state_dict({**unet.state_dict(), **svd.state_dict()})
    return unet


@torch.no_grad()
def silence_feedback(unet: FeedbackUNet) -> None:
    """Makes rays, and feedback of zeros, have no effect at first: the network equals its start."""
    for name, weight in unet.named_parameters():
        is_last_of_rays = "_plucker." in name and ".embed.2." in name
        if is_last_of_rays or (name.startswith("cond_encoder.") and name.endswith("bias")):
            weight.zero_()


def build_reconstruction(
    config: JointConfig, seed: int, progress: Progress = SILENT, continued: Path | None = None
) -> Lgm:
    """The reconstruction network, with time embedding.

    Args:
        config: its file, or its widths.
        seed: of new weights.
        progress: reports each tensor.
        continued: the first file of the pair that the run continues, if it does.

    Raises:
        InputError: the file is another model, or LGM while a pair is continued; or the settings
            have no time embedding.
    """
    if not config.reconstruction_start:
        if not config.reconstruction.time_channels:
            raise InputError(
                "joint.reconstruction has no time embedding, but sees images of all noise levels.",
                "Set joint.reconstruction.time_channels, for example to 128.",
            )
        with seeded(seed + 1):
            network = Lgm(config.reconstruction)
        init_splats(network)
        _zero_time_layers(network)
        return network
    path = resolve_model_file(config.reconstruction_start)
    model = load_reconstruction(path, dtype=torch.float32, progress=progress)
    own = copy_weights(model.network)
    if own.config.time_channels:
        return own
    if continued is not None:
        raise InputError(
            f"the run continues the pair of {continued}, but joint.reconstruction_start is LGM "
            f"({path}), which is not its reconstruction model.",
            "Leave joint.reconstruction_start empty for the file next to it, or name that file.",
        )
    with seeded(seed + 1):
        network = Lgm(replace(own.config, time_channels=TIME_CHANNELS))
    network.load_state_dict({**network.state_dict(), **own.state_dict()})
    _zero_time_layers(network)
    return network


@torch.no_grad()
def _zero_time_layers(network: Lgm) -> None:
    """The time embedding has no effect at first."""
    for name, weight in network.named_parameters():
        if ".emb_layers." in name:
            weight.zero_()


@torch.no_grad()
def init_splats(network: Lgm) -> None:
    """Random splats of a new network: half transparent, of about a pixel, near the origin."""
    weight, bias = network.conv.weight, network.conv.bias  # (14, 14, 1, 1), (14,)
    nn.init.eye_(weight[..., 0, 0])
    bias.zero_()
    bias[4:7] = -1.0  # scale 0.03

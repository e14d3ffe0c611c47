"""What is trained: the network, and the image encoder where it learns too."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..compute.devices import seeded
from ..diffusion.codecs.pixels import PixelCodec
from ..diffusion.codecs.small_encoder import SmallEncoder
from ..diffusion.families import FAMILIES, Family
from ..diffusion.model import Codec, ImageEncoder, MultiviewModel
from ..diffusion.network.unet import VideoUNet
from ..errors import InputError
from ..progress import SILENT, Progress
from ..weights.discovery.built_in import resolve_model_file
from ..weights.discovery.companions import resolve_unet_file
from ..weights.discovery.locate import inspect_file
from ..weights.load import load_model, load_svd
from .config import NetworkConfig, TrainConfig
from .init_from_svd import nova3d_from_svd

UNUSED_LAYERS = (".attn2.to_q.", ".attn2.to_k.", ".norm2.")
"""Layers that a context of one token never uses: they get no gradient."""


class TrainModule(nn.Module):
    """A network with its image encoder, as one module that launchers can wrap.

    Args:
        unet: the network; its weights become float32 and are trained, but for the idle ones.
        encoder: the image encoder; a small one is trained too, CLIP stays as it is.
        codec: has nothing to learn.
        family: how the model is trained and sampled.
    """

    def __init__(self, unet: VideoUNet, encoder: ImageEncoder, codec: Codec, family: Family):
        super().__init__()
        check_parts(unet, codec, family)
        self.unet = unet.float().requires_grad_(True)
        for name, weight in self.unet.named_parameters():
            if any(part in f".{name}" for part in UNUSED_LAYERS):
                weight.requires_grad_(False)
        self.encoder: nn.Module | None = None
        if isinstance(encoder, SmallEncoder):
            self.encoder = encoder.float().requires_grad_(True)
        # what is not trained is no part of this module: launchers must not split it
        self._outside = (codec, encoder)
        self.family = family

    @property
    def codec(self) -> Codec:
        """Images to latents and back."""
        return self._outside[0]

    @property
    def image_encoder(self) -> ImageEncoder:
        """Images to the token of the context."""
        return self._outside[1]

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        seen: Tensor,
        kept: Tensor,
        added: Tensor,
        camera_task: Tensor | None,
    ) -> Tensor:
        """F of the network.

        Args:
            x: (D, B, V, Cin, h, w) scaled noisy latents beside the input image's, in the number
                format to compute in.
            c_noise: (B,) ln(sigma) / 4.
            seen: (B, 3, S, S) input images in -1..1 where the encoder is trained, else their
                embeddings (B, 1, Cc).
            kept: (B,) 1 where the network is given the embedding, 0 where it is left out.
            added: (B, V, A) sinusoids.
            camera_task: (D, B, V, 10), or None.
        """
        context = seen if self.encoder is None else self.encoder.embed(seen)  # (B, 1, Cc)
        context = context * kept[:, None, None]
        return self.unet(x, c_noise, context, added, camera_task)

    def model(self, source: str = "") -> MultiviewModel:
        """The same parts as a model that can be sampled; nothing is copied."""
        return MultiviewModel(self.family, self.unet, self.codec, self.image_encoder, source)


def check_parts(unet: VideoUNet, codec: Codec, family: Family) -> None:
    """Raises InputError unless network, codec and family belong together."""
    config = unet.config
    wanted = {
        "domains": len(family.domains),
        "in_channels": 2 * codec.latent_channels,
        "out_channels": codec.latent_channels,
        "add_embed_dim": 256 * len(family.added_conditions),
    }
    for name, number in wanted.items():
        if getattr(config, name) != number:
            raise InputError(
                f"the UNet to train has {name} = {getattr(config, name)}, family {family.name} "
                f"with its codec needs {number}.",
                "Change network.unet in the training settings.",
            )


def check_image_size(trainee: TrainModule, size_px: int) -> None:
    """Raises InputError if the network cannot halve latents of such images often enough."""
    levels = len(trainee.unet.config.channel_mult)
    multiple = trainee.codec.factor * 2 ** (levels - 1)
    if size_px % multiple:
        raise InputError(
            f"data.size_px is {size_px}, but the network takes multiples of {multiple}."
        )


def init_train_module(config: NetworkConfig, family: Family, seed: int) -> TrainModule:
    """A network that starts from nothing, with the codec without weights and a small encoder.

    It begins by answering 0: the last layer is zero, and each residual branch ends in a layer that
    is zero or small, so that every block starts as the identity.

    Args:
        config: widths and depths.
        family: what is trained.
        seed: the same seed gives the same weights.
    """
    with seeded(seed):
        unet = VideoUNet(config.unet)
        encoder = SmallEncoder(config.encoder_channels, config.unet.context_dim)
    init_as_identity(unet, config.residual_init_scale)
    codec = PixelCodec(
        config.codec_factor,
        std=config.codec_std,
        cosines=config.codec_dct_weights or None,
    )
    return TrainModule(unet, encoder, codec, family)


@torch.no_grad()
def init_as_identity(unet: VideoUNet, small: float = 0.0) -> None:
    """Makes a network with default random weights answer 0 and pass everything through."""
    for name, module in unet.named_modules():
        residual = name.endswith((".out_layers.3", ".proj_out", ".attn_align.to_out.0"))
        if name == "out.2" or residual:
            module.weight.mul_(0.0 if name == "out.2" else small)
            module.bias.zero_()
    for name, weight in unet.named_parameters():
        if name.endswith("mix_factor"):
            weight.zero_()  # half of each


def build_train_module(config: TrainConfig, progress: Progress = SILENT) -> TrainModule:
    """What a run trains: out of a file, or from nothing.

    Raises:
        InputError: the file is neither SVD nor of the family.
    """
    family = FAMILIES[config.family]
    if not config.start:
        return init_train_module(config.network, family, config.seed)
    path = resolve_unet_file(resolve_model_file(config.start))
    found = inspect_file(path).identity
    if found is not None and found.family == "svd" and family.name == "nova3d":
        svd, codec, encoder = load_svd(path, dtype=torch.float32, progress=progress)
        return TrainModule(nova3d_from_svd(svd, config.seed), encoder, codec, family)
    model = load_model(path, dtype=torch.float32, progress=progress)
    if model.family.name != family.name:
        raise InputError(
            f"{path} is {model.family.label}, but the settings train {family.label}.",
            "Change `family` or `start` in the training settings.",
        )
    return TrainModule(copy_weights(model.unet), copy_weights(model.image_encoder), model.codec, family)


def copy_weights(module: nn.Module) -> nn.Module:
    """The module with weights that may be written: those of a file are mapped from it."""
    for weight in module.parameters():
        weight.data = weight.data.clone()
    return module

"""The module to train: the network, and the small image encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..compute.devices import seeded
from ..diffusion.codecs.pixels import MEAN, Channels, PixelCodec
from ..diffusion.codecs.small_encoder import SmallEncoder
from ..diffusion.families import FAMILIES, Family
from ..diffusion.model import Codec, ImageEncoder, MultiviewModel
from ..diffusion.network.config import UNetConfig
from ..diffusion.network.token_transformer import TokenTransformer, init_token_transformer
from ..diffusion.network.unet import VideoUNet
from ..diffusion.sampling.conditioning import added_embed_dim
from ..errors import InputError
from ..progress import SILENT, Progress
from ..weights.discovery.built_in import resolve_model_file
from ..weights.discovery.companions import resolve_unet_file
from ..weights.discovery.locate import inspect_file
from ..weights.load import load_model, load_svd
from .config import NetworkConfig, TrainConfig
from .init_from_svd import FROM_SVD, sv3d_p_from_u, unet_from_svd

UNUSED_LAYERS = (".attn2.to_q.", ".attn2.to_k.", ".norm2.")
"""Layers without effect, and so without gradient: the context is a single token."""


class ModelModule(nn.Module):
    """What the modules to train have in common: the UNet, the encoder, and frozen parts.

    Args:
        unet: cast to float32 and trained.
        encoder: the image encoder; a small one is trained, CLIP stays frozen.
        codec: frozen.
        family: the model family.
    """

    def __init__(
        self,
        unet: VideoUNet | TokenTransformer,
        encoder: ImageEncoder,
        codec: Codec,
        family: Family,
    ):
        super().__init__()
        self.unet = unet.float().requires_grad_(True)
        self.encoder: nn.Module | None = None
        if isinstance(encoder, SmallEncoder):
            self.encoder = encoder.float().requires_grad_(True)
        # frozen parts are not registered: launchers must not wrap or shard them
        self._unregistered = (codec, encoder)
        self.family = family

    @property
    def codec(self) -> Codec:
        """Encodes and decodes images."""
        return self._unregistered[0]

    @property
    def image_encoder(self) -> ImageEncoder:
        """Encodes images into context tokens."""
        return self._unregistered[1]

    @property
    def frozen(self) -> tuple[nn.Module, ...]:
        """Frozen modules, which have to be moved to the device."""
        return self.codec, self.image_encoder

    def sized_family(self, size_px: int | None) -> Family:
        """The family with the size of the images of the training; unchanged if None."""
        return self.family if size_px is None else replace(self.family, size_px=size_px)


class TrainModule(ModelModule):
    """UNet and image encoder as one module that launchers can wrap.

    Args:
        unet: the network; cast to float32 and trained, except for `UNUSED_LAYERS`.
        encoder: the image encoder; a small one is trained, CLIP stays frozen.
        codec: frozen.
        family: the model family.
    """

    def __init__(
        self,
        unet: VideoUNet | TokenTransformer,
        encoder: ImageEncoder,
        codec: Codec,
        family: Family,
    ):
        check_parts(unet, codec, family)
        super().__init__(unet, encoder, codec, family)
        for name, weight in self.unet.named_parameters():
            if any(part in f".{name}" for part in UNUSED_LAYERS):
                weight.requires_grad_(False)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        image: Tensor,
        keep_embedding: Tensor,
        added_embeds: Tensor,
        camera_task: Tensor | None,
    ) -> Tensor:
        """Output of the network F.

        Args:
            x: (D, B, V, Cin, h, w) scaled noisy latents concatenated with the input image's latent,
                in the compute dtype.
            c_noise: (B,) ln(sigma) / 4.
            image: (B, 3, S, S) input images in -1..1 if the encoder is trained, else their
                embeddings (B, 1, Cc).
            keep_embedding: (B,) 1, or 0 where the embedding is dropped.
            added_embeds: (B, V, A) sinusoidal embeddings.
            camera_task: (D, B, V, 10), or None.
        """
        context = self.context(image, keep_embedding)
        return self.unet(x, c_noise, context, added_embeds, camera_task)

    def context(self, image: Tensor, keep_embedding: Tensor) -> Tensor:
        """(B, 1, Cc) context tokens after dropout; arguments as of `forward`."""
        context = image if self.encoder is None else self.encoder.embed(image)
        return context * keep_embedding[:, None, None]

    def model(self, source: str = "", size_px: int | None = None) -> MultiviewModel:
        """The parts as a model that can be sampled, not copied.

        Args:
            source: its file, for messages.
            size_px: size of the images of its training; the family's if None.
        """
        family = self.sized_family(size_px)
        return MultiviewModel(family, self.unet, self.codec, self.image_encoder, source)


def check_parts(unet: VideoUNet | TokenTransformer, codec: Codec, family: Family) -> None:
    """Raises InputError unless network, codec and family are compatible."""
    required = {
        "domains": len(family.domains),
        "in_channels": 2 * codec.latent_channels,
        "out_channels": codec.latent_channels,
        "add_embed_dim": added_embed_dim(family),
    }
    check_unet_config(
        unet.config,
        required,
        f"family {family.name} with its codec",
        "Change network.unet in the training settings.",
    )


def check_unet_config(
    config: UNetConfig, required: Mapping[str, int], subject: str, hint: str
) -> None:
    """Raises InputError unless the settings of a network have the values that a subject requires.

    Args:
        config: of the network.
        required: values by name.
        subject: what requires them.
        hint: of the error.
    """
    for name, value in required.items():
        found = getattr(config, name)
        if found != value:
            raise InputError(
                f"the UNet to train has {name} = {found}, {subject} requires {value}.", hint
            )


def check_image_size(module: ModelModule, size_px: int) -> None:
    """Raises InputError unless the network can downsample latents of such images evenly."""
    multiple = module.codec.factor * module.unet.config.size_multiple
    if size_px % multiple:
        raise InputError(
            f"data.size_px is {size_px}, but the network needs multiples of {multiple}."
        )


def check_views_per_step(module: ModelModule, views: int) -> None:
    """Raises InputError if steps train on fewer views than the network needs: a UNet needs all."""
    if views and not isinstance(module.unet, TokenTransformer):
        raise InputError(
            f"data.views_per_step is {views}, but a UNet trains on all views: it tells them apart "
            "by their order.",
            "Set it to 0, or train a token transformer.",
        )


def init_train_module(config: NetworkConfig, family: Family, seed: int) -> TrainModule:
    """A module with random weights: network, pixel codec and small image encoder.

    Its initial output is 0: the last layer is zero, and each residual branch ends in a layer that
    is zero or small, so that every block starts near the identity.

    Args:
        config: widths and depths.
        family: the model family.
        seed: of the weights.
    """
    transformer = config.transformer
    with seeded(seed):
        unet = VideoUNet(config.unet) if transformer is None else TokenTransformer(transformer)
        encoder = SmallEncoder(config.encoder_channels, unet.config.context_dim)
    if isinstance(unet, TokenTransformer):
        init_token_transformer(unet, config.residual_init_scale)
    else:
        init_as_identity(unet, config.residual_init_scale)
    return TrainModule(unet, encoder, make_pixel_codec(config), family)


def make_pixel_codec(config: NetworkConfig, mean: Channels = MEAN) -> PixelCodec:
    """The pixel codec of a run from random weights."""
    cosines = config.codec_dct_weights or None
    return PixelCodec(config.codec_factor, mean, config.codec_std, cosines)


@torch.no_grad()
def init_as_identity(unet: VideoUNet, residual_scale: float = 0.0) -> None:
    """Makes a randomly initialised network output 0, with blocks near the identity."""
    for name, module in unet.named_modules():
        residual = name.endswith((".out_layers.3", ".proj_out", ".attn_align.to_out.0"))
        if name == "out.2" or residual:
            module.weight.mul_(0.0 if name == "out.2" else residual_scale)
            module.bias.zero_()
    for name, weight in unet.named_parameters():
        if name.endswith("mix_factor"):
            weight.zero_()  # blends halves


def build_train_module(config: TrainConfig, progress: Progress = SILENT) -> TrainModule:
    """The module that a run trains, from a file or with random weights.

    Raises:
        InputError: the file is neither SVD nor a model of the family.
    """
    family = FAMILIES[config.family]
    if not config.start:
        return init_train_module(config.network, family, config.seed)
    path = resolve_unet_file(resolve_model_file(config.start))
    found = inspect_file(path).identity
    if found is not None and found.family == "svd" and family.name in FROM_SVD:
        svd, codec, encoder = load_svd(path, dtype=torch.float32, progress=progress)
        return TrainModule(unet_from_svd(svd, family, config.seed), encoder, codec, family)
    model = load_model(path, dtype=torch.float32, progress=progress)
    if (model.family.name, family.name) == ("sv3d_u", "sv3d_p"):
        unet = sv3d_p_from_u(model.unet)
        return TrainModule(unet, copy_weights(model.image_encoder), model.codec, family)
    if model.family.name != family.name:
        raise InputError(
            f"{path} is {model.family.label}, but the settings train {family.label}.",
            "Change `family` or `start` in the training settings.",
        )
    return TrainModule(
        copy_weights(model.unet), copy_weights(model.image_encoder), model.codec, family
    )


def copy_weights(module: nn.Module) -> nn.Module:
    """Copies a module's weights, which may be read-only memory maps of a file."""
    for weight in module.parameters():
        weight.data = weight.data.clone()
    return module

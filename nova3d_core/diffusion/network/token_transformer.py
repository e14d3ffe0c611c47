"""A transformer over patches of all views, a small network that replaces the video UNet.

A token is a patch of a view, of both domains or of one. Geometry-Temporal Alignment is part of each
attention: colour and normal tokens attend to each other within a view (Algorithm 1) or across views
(Algorithm 2, extended from one position to a row or to all positions). Views differ only by the
rays of their patches, so any subset of the views of an orbit can be denoised, in any order.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ...checks import check_shape
from ...conventions import FOCAL_PER_WIDTH, ORBIT_RADIUS
from ...errors import InputError
from . import operations as plain_operations
from .attention import Attend, Attention, chunked_attention
from .embeddings import sinusoidal_embedding
from .ray_embedding import FREQUENCIES, harmonic_embedding
from .token_transformer_config import TokenTransformerConfig

RAY_VALUES = 8
"""Values of a patch's ray: two image coordinates, moment and direction."""
RAY_CHANNELS = RAY_VALUES * (2 * FREQUENCIES + 1)
MODULATIONS = 6
"""Shift, scale and gate of attention and of MLP."""
MIN_SIGMA = 0.02
"""Lowest noise level of the division in x-prediction: below, errors of rounding would be amplified.
"""


def orbit_rays(camera_task: Tensor, rows: int, columns: int) -> Tensor:
    """Rays through the centres of patches, in the frame of an orbit around the origin.

    Args:
        camera_task: (..., 10) camera and task embeddings; see `embeddings.camera_task_embedding`.
        rows: of patches.
        columns: of patches.

    Returns:
        (..., rows, columns, 8) float32: coordinates x (right) and y (down) in -1..1 in the image,
        moment o x d, and unit direction d in the world frame (y up), where the input view is at
        azimuth 0 and the elevation relative to it.
    """
    sine, cosine = camera_task.float()[..., :5], camera_task.float()[..., 5:]
    sin_el, cos_el, sin_az, cos_az = sine[..., 1], cosine[..., 1], sine[..., 2], cosine[..., 2]
    zero = torch.zeros_like(sin_el)
    back = torch.stack([sin_az * cos_el, sin_el, cos_az * cos_el], dim=-1)  # origin to camera
    right = torch.stack([cos_az, zero, -sin_az], dim=-1)
    down = torch.linalg.cross(right, back)
    device = camera_task.device
    y = (2.0 * torch.arange(rows, device=device) + 1.0) / rows - 1.0
    x = (2.0 * torch.arange(columns, device=device) + 1.0) / columns - 1.0
    y, x = torch.meshgrid(y, x, indexing="ij")  # (rows, columns)
    half = 0.5 / FOCAL_PER_WIDTH
    axes = [each[..., None, None, :] for each in (right, down, back)]
    directions = half * x[..., None] * axes[0] + half * y[..., None] * axes[1] - axes[2]
    directions = functional.normalize(directions, dim=-1)  # (..., rows, columns, 3)
    origins = ORBIT_RADIUS * axes[2]
    moments = torch.linalg.cross(origins.expand_as(directions), directions)
    plane = torch.stack([x, y], dim=-1).expand(*directions.shape[:-1], 2)
    return torch.cat([plane, moments, directions], dim=-1)


class TokenAttention(Attention):
    """Self-attention with normalised queries and keys.

    Args:
        channels: width of the tokens.
        num_head_channels: width of one head.
        operations: module that provides the layers.
        attend: attention function; `scaled_dot_product` if None.
        factory: device and dtype of the weights.
    """

    def __init__(
        self,
        channels: int,
        num_head_channels: int,
        operations: ModuleType | type,
        attend: Attend | None = None,
        **factory: Any,
    ):
        super().__init__(channels, channels, num_head_channels, operations, attend, **factory)
        self.norm_q = operations.LayerNorm(num_head_channels, **factory)
        self.norm_k = operations.LayerNorm(num_head_channels, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        q = self._normalised(self.norm_q, self.to_q(x))
        k = self._normalised(self.norm_k, self.to_k(x))
        return self.to_out(chunked_attention(self.attend, q, k, self.to_v(x), self.heads))

    def _normalised(self, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(x.unflatten(-1, (self.heads, -1))).flatten(-2)


class TokenBlock(nn.Module):
    """Attention over a span of tokens, then an MLP, both modulated by the conditions (adaLN).

    Args:
        config: the architecture.
        span: which tokens attend to each other.
        operations: module that provides the layers.
        attend: attention function; `scaled_dot_product` if None.
        factory: device and dtype of the weights.
    """

    def __init__(
        self,
        config: TokenTransformerConfig,
        span: str,
        operations: ModuleType | type,
        attend: Attend | None = None,
        **factory: Any,
    ):
        super().__init__()
        width, linear = config.channels, operations.Linear
        self.span = span
        self.norm1 = operations.LayerNorm(width, **factory)
        heads = config.num_head_channels
        self.attn_align = TokenAttention(width, heads, operations, attend, **factory)
        self.norm2 = operations.LayerNorm(width, **factory)
        self.mlp = nn.Sequential(
            linear(width, 4 * width, **factory),
            nn.GELU(approximate="tanh"),
            linear(4 * width, width, **factory),
        )
        self.modulation = nn.Parameter(torch.zeros(MODULATIONS * width, **factory))

    def forward(self, x: Tensor, modulation: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens to tokens.

        Args:
            x: (B, V, T, P, C) tokens, P = rows x columns.
            modulation: (B, V, 6 C), common to all blocks.
            grid: rows and columns of patches.

        Returns:
            (B, V, T, P, C).
        """
        own = modulation + self.modulation.to(modulation)
        parts = own[:, :, None, None].chunk(MODULATIONS, dim=-1)  # (B, V, 1, 1, C) each
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
        hidden = torch.addcmul(shift, self.norm1(x), 1.0 + scale)
        x = torch.addcmul(x, 1.0 + gate, self._attend(hidden, grid))
        hidden = torch.addcmul(mlp_shift, self.norm2(x), 1.0 + mlp_scale)
        return torch.addcmul(x, 1.0 + mlp_gate, self.mlp(hidden))

    def _attend(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Attention among the tokens of each span, (B, V, T, P, C) -> (B, V, T, P, C)."""
        objects, views, domains = x.shape[:3]
        if self.span == "view":
            out = self.attn_align(x.flatten(2, 3).flatten(0, 1))  # (B V, T P, C)
            return out.unflatten(1, (domains, -1)).unflatten(0, (objects, views))
        if self.span == "full":
            out = self.attn_align(x.flatten(1, 3))  # (B, V T P, C)
            return out.unflatten(1, x.shape[1:4])
        by_row = x.unflatten(3, grid).movedim(3, 1)  # (B, rows, V, T, columns, C)
        out = self.attn_align(by_row.flatten(2, 4).flatten(0, 1))  # (B rows, V T columns, C)
        out = out.unflatten(1, (views, domains, grid[1])).unflatten(0, (objects, grid[0]))
        return out.movedim(1, 3).flatten(3, 4)


class TokenTransformer(nn.Module):
    """Denoises all views of an object in all domains jointly; called as `VideoUNet`.

    Args:
        config: architecture.
        operations: provides Linear and LayerNorm; ComfyUI's let the host stream weights.
        attention: attention function of (q, k, v, heads); torch's own kernels if None.
        device: of the weights; "meta" allocates none.
        dtype: of the weights.

    Attributes:
        gradient_checkpointing: recompute the activations of each block in the backward pass.
    """

    def __init__(
        self,
        config: TokenTransformerConfig | None = None,
        operations: ModuleType | type = plain_operations,
        attention: Attend | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.config = config = config or TokenTransformerConfig()
        self.gradient_checkpointing = False
        factory = {"device": device, "dtype": dtype}
        linear, width = operations.Linear, config.channels
        patch = config.domains_per_token * config.patch_size**2

        def mlp(in_features: int) -> nn.Sequential:
            return nn.Sequential(
                linear(in_features, width, **factory), nn.SiLU(), linear(width, width, **factory)
            )

        self.patch_embed = linear(patch * config.in_channels, width, **factory)
        self.ray_embed = mlp(RAY_CHANNELS)
        self.camera_task_emb = mlp(config.camera_task_dim)
        self.time_embed = mlp(width)
        self.label_emb = nn.Sequential(mlp(config.add_embed_dim))
        self.context_embed = linear(config.context_dim, width, **factory)
        self.modulation = nn.Sequential(
            nn.SiLU(), linear(width, (MODULATIONS + 2) * width, **factory)
        )
        self.blocks = nn.ModuleList(
            [
                TokenBlock(config, config.span(index), operations, attention, **factory)
                for index in range(config.depth)
            ]
        )
        self.norm_out = operations.LayerNorm(width, **factory)
        self.out = linear(width, patch * config.out_channels, **factory)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        context: Tensor,
        added_embeds: Tensor,
        camera_task: Tensor | None = None,
    ) -> Tensor:
        """The raw network F of EDM's D(x; sigma) = c_skip x + c_out F(c_in x; c_noise).

        Args:
            x: (D, B, V, Cin, h, w) noisy latents scaled by c_in, concatenated with the input
                image's latent; h and w multiples of the patch size.
            c_noise: (B,) noise level of each object, ln(sigma) / 4.
            context: (B, M, Cc) image embedding, or (B, V, M, Cc) for one per view.
            added_embeds: (B, V, A) sinusoidal embeddings of the added conditions.
            camera_task: (D, B, V, 10) camera and task embedding.

        Returns:
            (D, B, V, Cout, h, w) in the dtype of x.

        Raises:
            InputError: shapes that do not match each other or the network.
        """
        self._check(x, c_noise, context, added_embeds, camera_task)
        patch = self.config.patch_size
        rows, columns = x.shape[-2] // patch, x.shape[-1] // patch
        embedding = self._embedding(c_noise, context, added_embeds, x.dtype)  # (B, V, C)
        modulation = self.modulation(embedding)  # (B, V, 8 C)
        split = MODULATIONS * self.config.channels
        blocks, last = modulation[..., :split], modulation[..., split:]
        tokens = self._tokens(x, camera_task, (rows, columns))
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                arguments = tokens, blocks, (rows, columns)
                tokens = checkpoint(block, *arguments, use_reentrant=False)
            else:
                tokens = block(tokens, blocks, (rows, columns))
        shift, scale = last[:, :, None, None].chunk(2, dim=-1)
        tokens = torch.addcmul(shift, self.norm_out(tokens), 1.0 + scale)
        predicted = self._unpatch(self.out(tokens), (rows, columns))
        if self.config.prediction == "v":
            return predicted
        return velocity_from_clean(x[:, :, :, : self.config.out_channels], predicted, c_noise)

    def _check(
        self,
        x: Tensor,
        c_noise: Tensor,
        context: Tensor,
        added_embeds: Tensor,
        camera_task: Tensor | None,
    ) -> None:
        config, label = self.config, "the transformer's"
        sizes = check_shape(f"{label} x", x, "D B V C H W", D=config.domains, C=config.in_channels)
        if sizes["H"] % config.patch_size or sizes["W"] % config.patch_size:
            raise InputError(
                f"{label} x is {sizes['W']}x{sizes['H']} latents, expected multiples of "
                f"{config.patch_size}."
            )
        objects, views = sizes["B"], sizes["V"]
        check_shape(f"{label} c_noise", c_noise, "B", B=objects)
        shape = "B V M C" if context.dim() == 4 else "B M C"
        given = {"V": views} if context.dim() == 4 else {}
        check_shape(f"{label} context", context, shape, B=objects, C=config.context_dim, **given)
        expected = {"B": objects, "V": views}
        check_shape(
            f"{label} added_embeds", added_embeds, "B V A", A=config.add_embed_dim, **expected
        )
        if camera_task is None:
            raise InputError(f"this network needs {label} camera_task.")
        expected |= {"D": config.domains, "A": config.camera_task_dim}
        check_shape(f"{label} camera_task", camera_task, "D B V A", **expected)

    def _embedding(
        self, c_noise: Tensor, context: Tensor, added_embeds: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """(B, V, C) embedding of the noise level, the added conditions and the image."""
        level = sinusoidal_embedding(1000.0 * c_noise, self.config.channels).to(dtype)
        image = self.context_embed(context.to(dtype).mean(dim=-2))  # (B, C) or (B, V, C)
        image = image if image.dim() == 3 else image[:, None]
        added = self.label_emb(added_embeds.to(dtype))  # (B, V, C)
        return self.time_embed(level)[:, None] + image + added

    def _tokens(self, x: Tensor, camera_task: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, V, T, P, C) embedded patches with their rays and domains."""
        patch, shared = self.config.patch_size, self.config.domains_per_token
        patches = functional.pixel_unshuffle(x.flatten(0, 2), patch)  # (N, Cin p^2, rows, columns)
        patches = patches.flatten(2).transpose(1, 2).unflatten(0, x.shape[:3])  # (D, B, V, P, c)
        patches = patches.movedim(0, 2)  # (B, V, D, P, c)
        camera_task = camera_task.movedim(0, 2)  # (B, V, D, 10)
        tasks = self.camera_task_emb(camera_task.to(x.dtype))  # (B, V, D, C)
        if shared > 1:
            patches = patches.movedim(2, 3).flatten(3, 4)[:, :, None]  # (B, V, 1, P, D c)
            tasks = tasks.mean(dim=2, keepdim=True)
        rays = harmonic_embedding(orbit_rays(camera_task[:, :, 0], *grid))  # (B, V, r, c, 104)
        rays = self.ray_embed(rays.flatten(2, 3).to(x.dtype))[:, :, None]  # (B, V, 1, P, C)
        return self.patch_embed(patches) + rays + tasks[:, :, :, None]

    def _unpatch(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, V, T, P, c) -> (D, B, V, Cout, h, w)."""
        domains = self.config.domains_per_token
        images = tokens.unflatten(-1, (domains, -1)).movedim(-2, 2)  # (B, V, d, T, P, c)
        images = images.flatten(2, 3).transpose(-1, -2).unflatten(-1, grid)  # (B, V, D, c, r, c)
        images = functional.pixel_shuffle(images, self.config.patch_size)
        return images.movedim(2, 0)


def velocity_from_clean(scaled: Tensor, clean: Tensor, c_noise: Tensor) -> Tensor:
    """F of a denoiser that predicts the clean latents: (D - c_skip x) / c_out.

    Args:
        scaled: (D, B, V, C, h, w) noisy latents c_in x.
        clean: predicted clean latents D(x; sigma), same shape.
        c_noise: (B,) ln(sigma) / 4.

    Returns:
        Same shape, in the dtype of `scaled`.
    """
    sigma = torch.exp(4.0 * c_noise.float())[None, :, None, None, None, None]
    c_in = torch.rsqrt(1.0 + sigma * sigma)
    velocity = (c_in * scaled.float() - clean.float()) / (sigma.clamp_min(MIN_SIGMA) * c_in)
    return velocity.to(scaled.dtype)


@torch.no_grad()
def init_token_transformer(network: TokenTransformer, residual_scale: float = 0.0) -> None:
    """Starts with an output of 0 of the last layer, and blocks near the identity.

    Args:
        network: with torch's default initial weights.
        residual_scale: factor of the last layers of attention and MLP.
    """
    network.out.weight.zero_()
    network.out.bias.zero_()
    network.modulation[1].weight.mul_(0.1)
    network.modulation[1].bias.zero_()
    for block in network.blocks:
        for layer in (block.attn_align.to_out[0], block.mlp[2]):
            layer.weight.mul_(residual_scale)
            layer.bias.zero_()

"""The UNet is SVD's: outputs match diffusers' module, parameter names match the public files."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel

from nova3d_core.diffusion.network import attention
from nova3d_core.diffusion.network.config import CAMERA_TASK_DIM, UNetConfig
from nova3d_core.diffusion.network.embeddings import sinusoidal_embedding
from nova3d_core.diffusion.network.unet import VideoUNet
from nova3d_core.errors import InputError

from .conftest import inputs_for, small_unet

PREFIX = "model.diffusion_model."


@pytest.fixture
def key_map(checkpoint_manifests) -> dict[str, str]:
    """Parameter names of the sgm layout and of diffusers."""
    return json.loads((checkpoint_manifests / "map_sgm_unet_to_diffusers_unet.json").read_text())


def test_matches_diffusers_unet(key_map):
    torch.manual_seed(0)
    reference = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64, 128, 128),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        cross_attention_dim=48,
        num_attention_heads=(2, 4, 8, 8),
        num_frames=5,
    ).eval()
    for parameter in reference.parameters():
        centre = 0.0 if parameter.dim() > 1 else 0.5
        torch.nn.init.normal_(parameter, centre, 0.05 if parameter.dim() > 1 else 0.3)
    reference_state = reference.state_dict()
    unet = VideoUNet(
        UNetConfig(model_channels=32, num_head_channels=16, context_dim=48, add_embed_dim=24)
    )
    unet.load_state_dict(
        {name.removeprefix(PREFIX): reference_state[other] for name, other in key_map.items()}
    )
    given = inputs_for(unet)
    ids = torch.randn(2, 3) * 5.0
    with torch.no_grad():
        expected = reference(
            given["x"][0], given["c_noise"], given["context"], added_time_ids=ids
        ).sample
        added_embeds = sinusoidal_embedding(ids, 8).flatten(1)[:, None].expand(2, 5, 24)
        result = unet(given["x"], given["c_noise"], given["context"], added_embeds)[0]
    assert expected.abs().max() > 1.0
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(
    ("manifest", "added_embeds"),
    [("svd_xt_sgm", 768), ("sv3d_u_sgm", 256), ("sv3d_p_sgm", 1280), ("v3d_512_sgm", 768)],
)
def test_names_and_shapes_match_public_files(checkpoint_manifests, manifest, added_embeds):
    entries = json.loads((checkpoint_manifests / f"{manifest}.json").read_text())
    expected = {
        name.removeprefix(PREFIX): tuple(shape)
        for name, (shape, _) in entries.items()
        if name.startswith(PREFIX)
    }
    unet = VideoUNet(UNetConfig(add_embed_dim=added_embeds), device="meta")
    assert {name: tuple(t.shape) for name, t in unet.state_dict().items()} == expected


def test_alignment_adds_the_papers_parameter_count():
    shapes = [
        VideoUNet(config, device="meta").state_dict().values()
        for config in (
            UNetConfig(domains=2),
            UNetConfig(domains=2, alignment="gta"),
        )
    ]
    plain, aligned = (sum(tensor.numel() for tensor in tensors) for tensors in shapes)
    widths = [width for width in (320, 640, 1280) for _ in range(5)] + [1280]
    # q, k, v, out with bias, and the norm, in each spatial and each cross-view block
    assert aligned - plain == 2 * sum(4 * width**2 + 3 * width for width in widths)


def test_single_token_cross_attention_equals_the_general_case(svd_unet):
    block = svd_unet.middle_block[1].transformer_blocks[0]
    width = svd_unet.config.model_channels * 4
    tokens, context = torch.randn(3, 7, width), torch.randn(3, 1, 48)
    with torch.no_grad():
        torch.testing.assert_close(
            block.attn2.cross_attend_single(context).expand(3, 7, width),
            block.attn2.cross_attend(tokens, context),
        )


def test_repeated_context_token_equals_a_single_one(svd_unet):
    given = inputs_for(svd_unet)
    with torch.no_grad():
        one = svd_unet(**given)
        given["context"] = given["context"].expand(-1, 3, -1)
        torch.testing.assert_close(svd_unet(**given), one, atol=1e-5, rtol=1e-4)


def test_chunked_attention_is_equivalent(nova3d_unet, monkeypatch):
    given = inputs_for(nova3d_unet)
    with torch.no_grad():
        whole = nova3d_unet(**given)
        monkeypatch.setattr(attention, "MAX_GRID_ROWS", 50)
        torch.testing.assert_close(nova3d_unet(**given), whole, atol=1e-5, rtol=1e-4)


def test_custom_attention_function(svd_unet):
    head_counts = []

    def explicit(q, k, v, heads):
        head_counts.append(heads)
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)

    other = VideoUNet(svd_unet.config, attention=explicit)
    other.load_state_dict(svd_unet.state_dict())
    given = inputs_for(svd_unet)
    with torch.no_grad():
        torch.testing.assert_close(other(**given), svd_unet(**given), atol=1e-5, rtol=1e-4)
    assert set(head_counts) == {2, 4, 8}  # 32, 64 and 128 channels in heads of 16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_compute_in_the_input_dtype(svd_unet, dtype):
    half = VideoUNet(svd_unet.config, dtype=dtype)
    half.load_state_dict(svd_unet.state_dict())
    rounded = VideoUNet(svd_unet.config)
    rounded.load_state_dict({n: t.to(dtype).float() for n, t in svd_unet.state_dict().items()})
    given = inputs_for(svd_unet)
    with torch.no_grad():
        assert torch.equal(half(**given), rounded(**given))
        given["x"] = given["x"].to(dtype)
        result = half(**given)
    assert result.dtype == dtype and bool(torch.isfinite(result).all())


def test_gradient_checkpointing_keeps_gradients(nova3d_unet):
    given = inputs_for(nova3d_unet, objects=1, views=3, size=8)
    gradients = []
    for gradient_checkpointing in (False, True):
        nova3d_unet.gradient_checkpointing = gradient_checkpointing
        nova3d_unet.zero_grad()
        nova3d_unet(**given).square().mean().backward()
        gradients.append([p.grad.clone() for p in nova3d_unet.parameters() if p.grad is not None])
    nova3d_unet.gradient_checkpointing = False
    nova3d_unet.zero_grad()
    assert len(gradients[0]) == len(gradients[1]) > 400
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x", lambda t: t[..., :7], "7x16 latents, expected multiples of 8"),
        ("x", lambda t: t[:, :, :, :4], "the UNet's x has shape"),
        ("c_noise", lambda t: t[:1], "the UNet's c_noise has shape"),
        ("context", lambda t: t[..., :9], "the UNet's context has shape"),
        ("added_embeds", lambda t: t[:, :3], "the UNet's added_embeds has shape"),
        ("camera_task", lambda t: None, "needs the UNet's camera_task"),
        ("camera_task", lambda t: t[:1], "the UNet's camera_task has shape"),
    ],
)
def test_rejects_wrong_shapes(nova3d_unet, name, change, message):
    given = inputs_for(nova3d_unet)
    given[name] = change(given[name])
    with pytest.raises(InputError, match=message):
        nova3d_unet(**given)


def test_rejects_camera_task_without_its_mlp(svd_unet):
    given = {**inputs_for(svd_unet), "camera_task": torch.zeros(1, 2, 5, CAMERA_TASK_DIM)}
    with pytest.raises(InputError, match="takes no camera_task"):
        svd_unet(**given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_channels": 40}, "cannot be divided"),
        ({"attention_levels": (True,)}, "give one for each level"),
        ({"alignment": "gta"}, "needs two domains"),
        ({"alignment": "temporal", "domains": 2}, "UNet alignment is 'temporal'"),
        (
            {"attention_levels": (False,) * 4, "num_head_channels": 96},
            "the UNet's middle block has",
        ),
    ],
)
def test_rejects_impossible_architectures(settings, message):
    with pytest.raises(InputError, match=message):
        UNetConfig(
            **{"model_channels": 32, "num_head_channels": 16, "norm_num_groups": 16, **settings}
        )


def test_two_level_network():
    unet = small_unet(channel_mult=(1, 2), attention_levels=(True, False), num_res_blocks=1)
    given = inputs_for(unet, size=6)
    assert unet(**given).shape == (1, 2, 5, 4, 6, 6)

"""Backbone files are recognised by their contents; nothing else is taken for LPIPS."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nova3d_core.errors import InputError
from nova3d_core.perceptual import backbones
from nova3d_core.perceptual.backbones import BACKBONES, find_backbones
from nova3d_core.perceptual.lpips import LINEAR_LAYERS, Lpips, load_all_lpips, load_lpips

from .procedural import backbone_weights, image


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache of torch.hub, and no folders from the environment."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("NOVA3D_MODELS", raising=False)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def alex() -> dict[str, torch.Tensor]:
    return backbone_weights("alex")


def with_prefix(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"features.{key}": value for key, value in weights.items()}


def write_alexnet(path: Path, weights: dict[str, torch.Tensor], legacy: bool) -> None:
    """As torchvision's file: with the classifier, which LPIPS does not use."""
    classifier = {"classifier.1.weight": torch.zeros(40, 9216)}
    state = {**with_prefix(weights), **classifier}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)


@pytest.mark.parametrize("legacy", [True, False])
def test_torchvision_file_in_the_hub_cache(hub, alex, legacy):
    write_alexnet(hub / "alexnet-owt-7be5be79.pth", alex, legacy)
    assert find_backbones() == {"alex": hub / "alexnet-owt-7be5be79.pth"}
    images = image(48, 48, 1)[None]
    expected = Lpips("alex", alex)(images, 1.0 - images)
    assert torch.equal(load_lpips()(images, 1.0 - images), expected)


@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_features_alone_in_a_given_folder(tmp_path, alex, prefixed, dtype):
    state = {key: value.to(dtype) for key, value in alex.items()}
    (tmp_path / "models" / "deeper").mkdir(parents=True)
    path = tmp_path / "models" / "deeper" / "any name.safetensors"
    save_file(with_prefix(state) if prefixed else state, path)
    assert find_backbones([tmp_path / "models"]) == find_backbones([path]) == {"alex": path}
    assert load_lpips("alex", [path]).stages[0][0].weight.dtype == torch.float32


def test_both_networks(tmp_path, alex):
    save_file(alex, tmp_path / "a.safetensors")
    save_file(with_prefix(backbone_weights("vgg")), tmp_path / "b.safetensors")
    assert find_backbones([tmp_path]) == {
        "alex": tmp_path / "a.safetensors",
        "vgg": tmp_path / "b.safetensors",
    }
    assert [each.net for each in load_all_lpips([tmp_path])] == ["vgg", "alex"]
    assert load_lpips(folders=[tmp_path]).net == "alex"
    assert load_lpips("vgg", [tmp_path]).net == "vgg"


def test_folder_of_comfyui(tmp_path, monkeypatch, alex):
    """Only models/nova3d is searched, and not the other folders, which hold large files."""
    models = tmp_path / "ComfyUI" / "models"
    for name in ("nova3d", "checkpoints"):
        (models / name).mkdir(parents=True)
        save_file(alex, models / name / "alexnet.safetensors")
    folders = (models / "nova3d", models / "checkpoints")
    monkeypatch.setattr(backbones, "default_folders", lambda given: folders)
    assert backbones.search_folders()[:-1] == folders[:1]
    assert find_backbones() == {"alex": models / "nova3d" / "alexnet.safetensors"}


def test_other_weights_of_the_same_shapes_are_refused(tmp_path, alex, caplog):
    """A fine-tuned backbone gives other distances: they would not be LPIPS."""
    save_file({key: 1.1 * value for key, value in alex.items()}, tmp_path / "tuned.safetensors")
    with caplog.at_level(logging.WARNING):
        assert find_backbones([tmp_path]) == {}
    assert "not its ImageNet weights: LPIPS is undefined" in caplog.text


def test_other_networks_are_ignored(tmp_path, alex):
    wider = {**alex, "0.weight": torch.zeros(96, 3, 11, 11)}
    save_file(wider, tmp_path / "wider.safetensors")
    save_file({**alex, "0.weight": alex["0.weight"].flatten()}, tmp_path / "flat.safetensors")
    fewer = {key: value for key, value in alex.items() if key != "10.bias"}
    torch.save(fewer, tmp_path / "fewer.pth")
    (tmp_path / "text.pth").write_text("x" * backbones.MIN_BYTES)
    assert find_backbones([tmp_path]) == {}


def test_a_truncated_download_is_named(hub, alex, caplog):
    path = hub / BACKBONES["alex"].file
    write_alexnet(path, alex, legacy=False)
    path.write_bytes(path.read_bytes()[: backbones.MIN_BYTES + 10])
    with caplog.at_level(logging.WARNING):
        assert find_backbones() == {}
    assert f"LPIPS cannot use a file: {path}" in caplog.text


def test_without_a_file_the_error_names_it_and_where_to_put_it(hub):
    with pytest.raises(InputError) as raised:
        load_lpips()
    text = str(raised.value)
    assert "vgg16-397923af.pth or alexnet-owt-7be5be79.pth" in text
    assert "models/nova3d" in text
    assert str(hub) in text
    assert "\n" not in text
    with pytest.raises(InputError, match=r"of vgg, .* torchvision's vgg16-397923af\.pth into"):
        load_lpips("vgg")
    assert load_all_lpips() == ()


def test_a_given_folder_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_backbones([tmp_path / "missing"])


def test_linear_layers_and_their_licence_ship():
    licence = LINEAR_LAYERS.with_name("lpips_v0.1.LICENSE.txt").read_text(encoding="utf-8")
    assert "Copyright (c) 2018, Richard Zhang" in licence
    assert "Redistributions in binary form must reproduce" in licence
    attribution = LINEAR_LAYERS.with_name("ATTRIBUTION.md").read_text(encoding="utf-8")
    assert LINEAR_LAYERS.name in attribution

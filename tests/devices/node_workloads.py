"""The nodes' model management on the pretend device, compared with the CPU.

    python -m tests.devices.node_workloads

prints one line of JSON, as `workloads` does. It needs its own process.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .workloads import CPU, DEVICE, small_views, summarise


class Patcher:
    """The part of the host's ModelPatcher that the nodes use."""

    def __init__(self, model: torch.nn.Module, load_device: Any, offload_device: Any):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device

    def model_size(self) -> int:
        return sum(weight.nbytes for weight in self.model.parameters())


def host_modules(log: list[list[str]]) -> dict[str, types.ModuleType]:
    """Fakes of the host's modules, with the pretend device as GPU."""
    management = types.ModuleType("comfy.model_management")
    for name in ("get_torch_device", "vae_device", "text_encoder_device"):
        setattr(management, name, lambda: DEVICE)
    for name in ("unet", "vae", "text_encoder"):
        setattr(management, f"{name}_offload_device", lambda: CPU)
    management.is_device_cpu = lambda device: device.type == "cpu"
    management.get_total_memory = lambda device: 8 << 30
    management.minimum_inference_memory = lambda: 1 << 30

    def load_models_gpu(patchers: list[Patcher], **_options: Any) -> None:
        for patcher in patchers:
            log.append([type(patcher.model).__name__, str(patcher.load_device)])
            patcher.model.to(patcher.load_device)

    management.load_models_gpu = load_models_gpu
    patcher_module = types.ModuleType("comfy.model_patcher")
    patcher_module.ModelPatcher = Patcher
    comfy = types.ModuleType("comfy")
    comfy.model_management, comfy.model_patcher = management, patcher_module
    modules = {"comfy": comfy, "comfy.model_management": management}
    return {**modules, "comfy.model_patcher": patcher_module}


def node_model_management() -> dict[str, dict[str, Any]]:
    """The nodes load each part to the host's device and sample there."""
    root = Path(__file__).resolve().parents[2]
    spec = importlib.util.spec_from_file_location(
        "pack", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    log: list[list[str]] = []
    sys.modules.update(host_modules(log))
    sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["pack"])
    management = importlib.import_module("pack.nodes.model_management")
    pipeline = importlib.import_module("pack.nova3d_core.diffusion.sampling.pipeline")
    sampling_config = importlib.import_module("pack.nova3d_core.diffusion.sampling.config")
    model_module = importlib.import_module("pack.nova3d_core.diffusion.model")

    from ..diffusion.models import image_and_mask, small_model

    cases = {"lgm": _managed_reconstruction(management)}
    for name, dtype in (("nova3d-mini", torch.float16), ("sv3d_u", torch.bfloat16)):
        model = small_model(name)
        for part in management.PARTS:
            model.part(part).to(dtype)
        managed = management.manage_model(model, dtype)
        config = sampling_config.SampleConfig(seed=3, steps=1)
        cpu_model = copy.deepcopy(model)
        on_cpu = model_module.OneDevice(cpu_model, CPU, dtype)
        expected = pipeline.sample(cpu_model, *image_and_mask(), config, placement=on_cpu).images
        with torch.inference_mode():
            actual = pipeline.sample(
                model,
                *image_and_mask(),
                config,
                placement=management.HostModelPlacement(managed),
            )
        cases[name] = summarise(actual, float((actual.images - expected).abs().mean()))
    assert {device for _, device in log} == {str(DEVICE)}
    return cases


def _managed_reconstruction(management: types.ModuleType) -> dict[str, Any]:
    """Splats by a small LGM under the nodes' model management against those on the CPU."""
    package = "pack.nova3d_core.reconstruction"
    parts = ("config", "network", "model", "reconstruct")
    config, network, model_module, reconstruct = (
        importlib.import_module(f"{package}.{part}") for part in parts
    )
    views_module = importlib.import_module("pack.nova3d_core.views")
    cameras_module = importlib.import_module("pack.nova3d_core.cameras.cameras")
    given = small_views()
    cameras = cameras_module.Cameras(**vars(given.cameras))
    views = views_module.Views(cameras, given.colour, given.masks)
    torch.manual_seed(0)
    lgm = network.Lgm(config.LgmConfig(down_widths=(32,) * 6, up_widths=(32,) * 5))
    lgm.requires_grad_(False).to(torch.float16)
    family = replace(config.FAMILIES["lgm"], size_px=32)
    model = model_module.ReconstructionModel(family, lgm)
    on_cpu = model_module.ReconstructionOnDevice(copy.deepcopy(model), CPU)
    expected = reconstruct.reconstruct_splats(on_cpu.model, views, placement=on_cpu).splats
    managed = management.manage_reconstruction(model, torch.float16)
    with torch.inference_mode():
        placement = management.HostModelPlacement(managed)
        actual = reconstruct.reconstruct_splats(model, views, placement=placement).splats
    difference = (actual.positions - expected.positions).abs().mean()
    return summarise(actual, float(difference))


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(node_model_management())}\n")

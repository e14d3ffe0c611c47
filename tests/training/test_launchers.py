"""The shipped configurations for accelerate are valid and match the network."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nova3d_core.errors import InputError
from nova3d_core.training.launch import make_accelerator
from nova3d_core.training.presets import PRESET_DIR

from .worker import FSDP_UNITS

ROOT = __file__.rsplit("/tests/", 1)[0]
EXPECTED = {
    "one_gpu": ("NO", 1),
    "ddp_8gpu": ("MULTI_GPU", 8),
    "fsdp2_8gpu": ("FSDP", 8),
    "fsdp2_ouroboros3d_8gpu": ("FSDP", 8),
}


def test_lists_all_configurations():
    assert {path.stem for path in PRESET_DIR.glob("*.yaml")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_configuration(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(PRESET_DIR / f"{name}.yaml"))  # rejects unknown names
    assert (str(config.distributed_type).split(".")[-1], config.num_processes) == EXPECTED[name]
    assert config.mixed_precision == "no"


def test_fsdp_units_are_classes_of_the_network():
    from accelerate.commands.config.config_args import load_config_from_file

    from nova3d_core.diffusion.network.unet import VideoUNet

    from .parts import UNET

    config = load_config_from_file(str(PRESET_DIR / "fsdp2_8gpu.yaml")).fsdp_config
    assert config["fsdp_version"] == 2
    units = config["fsdp_transformer_layer_cls_to_wrap"].split(",")
    assert set(units) < set(FSDP_UNITS)  # those of the FSDP2 tests
    assert set(units) <= {type(module).__name__ for module in VideoUNet(UNET).modules()}


def test_fsdp_units_of_a_pair_are_classes_of_its_networks():
    from accelerate.commands.config.config_args import load_config_from_file

    from nova3d_core.training.joint.build import build_joint_module

    from .test_joint import PAIR

    config = load_config_from_file(str(PRESET_DIR / "fsdp2_ouroboros3d_8gpu.yaml")).fsdp_config
    units = config["fsdp_transformer_layer_cls_to_wrap"].split(",")
    assert set(units) <= {type(module).__name__ for module in build_joint_module(PAIR).modules()}


def test_settings_and_commands_import_without_torch():
    script = (
        "import sys, nova3d_core.training.presets as p, nova3d_core.cli.train, "
        "nova3d_core.cli.export\n"
        "[p.read_train_config(name) for name in p.preset_names()]\n"
        "assert not {'torch', 'numpy', 'accelerate'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_rejects_deepspeed(monkeypatch):
    class DeepSpeedAccelerator:
        distributed_type = "DistributedType.DEEPSPEED"

        def __init__(self, **_):
            pass

    monkeypatch.setattr("accelerate.Accelerator", DeepSpeedAccelerator)
    with pytest.raises(InputError, match="does not support DeepSpeed"):
        make_accelerator(cpu=True)

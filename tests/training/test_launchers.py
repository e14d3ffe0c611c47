"""The settings for accelerate's launcher are ones that it reads, and fit the network."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nova3d_core.training.presets import CONFIGS

from .worker import FSDP_UNITS

ROOT = __file__.rsplit("/tests/", 1)[0]
KINDS = {
    "one_gpu": ("NO", 1),
    "ddp_8gpu": ("MULTI_GPU", 8),
    "fsdp2_8gpu": ("FSDP", 8),
    "zero2_8gpu": ("DEEPSPEED", 8),
}


def test_all_are_known():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_them(name):
    from accelerate.commands.config.config_args import load_config_from_file

    read = load_config_from_file(str(CONFIGS / f"{name}.yaml"))  # refuses names it does not know
    assert (str(read.distributed_type).split(".")[-1], read.num_processes) == KINDS[name]
    assert read.mixed_precision == "no"


def test_split_units_are_classes_of_the_network():
    from accelerate.commands.config.config_args import load_config_from_file

    from nova3d_core.diffusion.network.unet import VideoUNet

    from .parts import UNET

    read = load_config_from_file(str(CONFIGS / "fsdp2_8gpu.yaml")).fsdp_config
    assert read["fsdp_version"] == 2
    units = read["fsdp_transformer_layer_cls_to_wrap"].split(",")
    assert set(units) < set(FSDP_UNITS)  # what the tests of split weights use
    assert set(units) <= {type(module).__name__ for module in VideoUNet(UNET).modules()}


def test_settings_and_commands_load_without_torch():
    script = (
        "import sys, nova3d_core.training.presets as p, nova3d_core.cli.train, "
        "nova3d_core.cli.export\n"
        "[p.read_train_config(name) for name in p.shipped_configs()]\n"
        "assert not {'torch', 'numpy', 'accelerate'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)

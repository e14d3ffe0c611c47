"""A broken tinycudann: the hash grid falls back to PyTorch and logs the reason.

A fake package of that name simulates a build for another GPU or another PyTorch.
"""

from __future__ import annotations

import importlib
import logging
import sys

import pytest
import torch

from nova3d_core.errors import MissingDependencyError
from nova3d_core.fusion.fields.hashgrid.encoding import HashEncoding, TcnnEncoding, make_encoding

CARD = torch.device("cuda:0")
NO_EXTENSION = "Could not find compatible tinycudann extension for compute capability 61."
BROKEN = {
    "other GPU": f"raise OSError({NO_EXTENSION!r})",
    "no extension": f"raise ImportError({NO_EXTENSION!r})",
    "other torch": f"raise RuntimeError({NO_EXTENSION!r})",
    "no encoding": f"raise AttributeError({NO_EXTENSION!r})",
    "at work": f"def Encoding(*given, **more): raise RuntimeError({NO_EXTENSION!r})",
}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts a fake tinycudann package on the path and pretends to have a GPU."""

    def install(content):
        (tmp_path / "tinycudann").mkdir()
        (tmp_path / "tinycudann" / "__init__.py").write_text(content + "\n", encoding="utf-8")
        importlib.invalidate_caches()

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tinycudann", raising=False)
    monkeypatch.setattr(HashEncoding, "to", lambda self, device: self)
    monkeypatch.setattr(TcnnEncoding, "to", lambda self, device: self)
    yield install
    sys.modules.pop("tinycudann", None)


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_falls_back_to_pytorch_and_logs_the_reason(installed, content, caplog):
    installed(content)
    encoding = make_encoding(CARD, max_res=64)
    assert type(encoding) is HashEncoding
    assert len(encoding.resolutions) == 10 and encoding.tables[0].shape == (2, 2**19)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    message = caplog.records[0].getMessage()
    assert message.startswith("tinycudann is installed but does not work here")
    assert "compute capability 61" in message and "plain PyTorch" in message


def test_out_of_memory_is_not_a_broken_package(installed):
    installed("def Encoding(*given, **more): raise RuntimeError('CUDA error: out of memory')")
    with pytest.raises(RuntimeError, match="out of memory"):
        make_encoding(CARD, max_res=64)


def test_working_tinycudann_is_used(installed):
    installed(
        "import torch\n"
        "class Encoding(torch.nn.Module):\n"
        "    def __init__(self, inputs, config, dtype):\n"
        "        super().__init__()\n"
        "        self.params = torch.nn.Parameter(torch.ones(4))\n"
    )
    encoding = make_encoding(CARD, max_res=64)
    assert type(encoding) is TcnnEncoding and not encoding.encoder.params.any()


def test_broken_tinycudann_encoding_raises(installed):
    installed(BROKEN["other GPU"])
    with pytest.raises(MissingDependencyError, match="tinycudann"):
        TcnnEncoding()

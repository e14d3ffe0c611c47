"""The pretend device itself: it computes as the CPU does, counts, and refuses what CUDA refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .pretend_device import is_supported

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not is_supported(), reason="this torch has no backends in Python")

SCRIPT = """
import json
import torch
from tests.devices.pretend_device import (
    LEDGER, DeviceFault, PretendTensor, counted, install, left_on_device
)
device, answers = install(), {}
host = torch.arange(6.0).reshape(2, 3)
here = host.to(device)

def outcome(action):
    try:
        action()
    except DeviceFault as fault:
        return str(fault)
    return "fine"

answers["refused"] = {
    "add": outcome(lambda: here + host),
    "add to host": outcome(lambda: host.add_(here)),
    "matmul": outcome(lambda: here @ host.T),
    "cat": outcome(lambda: torch.cat([here, host])),
    "index host": outcome(lambda: host[torch.tensor([0], device=device)]),
    "values": outcome(lambda: here.index_put_((torch.tensor([0]),), torch.ones(1, 3))),
    "generator": outcome(
        lambda: torch.randn(3, device=device, generator=torch.Generator().manual_seed(0))
    ),
    "integers": outcome(lambda: here.long() @ here.long().T),
    "numpy": outcome(lambda: here.numpy()),
    "out": outcome(lambda: torch.mul(here, 2.0, out=host)),
    "inference": outcome(lambda: torch.inference_mode()(lambda: here + host)()),
}
answers["allowed"] = {
    "scalar": outcome(lambda: here * torch.tensor(2.0)),
    "host index": outcome(lambda: here[torch.tensor([1])]),
    "number": outcome(lambda: here * 2.0),
    "copy": outcome(lambda: here.copy_(host)),
}
weight = here.clone().requires_grad_(True)
(weight.sin() * here).sum().backward()
known = host.clone().requires_grad_(True)
(known.sin() * host).sum().backward()
answers["gradient"] = [weight.grad.cpu().tolist(), known.grad.tolist()]
view = here[:, 1:]
view.mul_(2.0)
answers["views share memory"] = here.tolist() == [[0.0, 2.0, 4.0], [3.0, 8.0, 10.0]]
with counted() as found:
    total = (here * 2.0 + 1.0).sum()
    float(total)
    here[here > 3.0]
    here[here > 3.0] = 0.0
    host.to(device)
answers["counts"] = found
module = torch.nn.Linear(3, 2).to(device)
answers["module"] = left_on_device(module)
answers["module back"] = left_on_device(module.cpu())
answers["left"] = left_on_device({"a": [host, here], "b": (host,)})
torch.rand(2, device=device)
answers["unseeded"] = sum(LEDGER.unseeded.values())
with torch.inference_mode():
    answers["in inference mode"] = (host.to(device) @ host.to(device).T).cpu().tolist()
devices = [str(tensor.device) for tensor in (here, torch.zeros_like(here))]
answers["types"] = [type(here) is PretendTensor, *devices]
print("\\n" + json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers() -> dict:
    """What the script found, in a process of its own."""
    words = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_what_cuda_refuses_is_refused(answers):
    passed = [name for name, outcome in answers["refused"].items() if outcome == "fine"]
    assert passed == []
    for name in ("add", "matmul", "cat", "index host", "inference"):
        assert "expected all tensors on one device" in answers["refused"][name]


def test_what_cuda_allows_is_allowed(answers):
    assert set(answers["allowed"].values()) == {"fine"}


def test_it_computes_as_the_cpu_does(answers):
    found, known = answers["gradient"]
    assert found == known
    assert answers["views share memory"]
    assert answers["in inference mode"] == [[5.0, 14.0], [14.0, 50.0]]


def test_it_counts_launches_syncs_and_uploads(answers):
    # 3 + 1 read; mask and gather; mask and masked fill; copy
    counts = answers["counts"]
    assert counts["syncs"] == 2
    assert counts["uploads"] <= 2
    assert 8 <= counts["launches"] <= 11


def test_it_finds_what_is_left_on_it_and_who_drew_without_a_seed(answers):
    assert answers["left"] == ["result.a.1"]
    assert answers["module"] == ["result.weight", "result.bias"]
    assert answers["module back"] == []
    assert answers["unseeded"] == 1
    assert answers["types"] == [True, "pretend:0", "pretend:0"]

"""The pretend device computes like the CPU, counts operations, and rejects what CUDA rejects."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .pretend_device import is_supported

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not is_supported(), reason="this torch has no Python backends")

SCRIPT = """
import json
import torch
from tests.devices.pretend_device import (
    LEDGER, DeviceFault, PretendTensor, counted, install, left_on_device
)
device, results = install(), {}
host = torch.arange(6.0).reshape(2, 3)
here = host.to(device)

def outcome(action):
    try:
        action()
    except DeviceFault as fault:
        return str(fault)
    return "ok"

results["rejected"] = {
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
results["allowed"] = {
    "scalar": outcome(lambda: here * torch.tensor(2.0)),
    "host index": outcome(lambda: here[torch.tensor([1])]),
    "number": outcome(lambda: here * 2.0),
    "copy": outcome(lambda: here.copy_(host)),
}
weight = here.clone().requires_grad_(True)
(weight.sin() * here).sum().backward()
expected = host.clone().requires_grad_(True)
(expected.sin() * host).sum().backward()
results["gradient"] = [weight.grad.cpu().tolist(), expected.grad.tolist()]
view = here[:, 1:]
view.mul_(2.0)
results["views share memory"] = here.tolist() == [[0.0, 2.0, 4.0], [3.0, 8.0, 10.0]]
with counted() as counts:
    total = (here * 2.0 + 1.0).sum()
    float(total)
    here[here > 3.0]
    here[here > 3.0] = 0.0
    host.to(device)
results["counts"] = counts
module = torch.nn.Linear(3, 2).to(device)
results["module"] = left_on_device(module)
results["module back"] = left_on_device(module.cpu())
results["left"] = left_on_device({"a": [host, here], "b": (host,)})
torch.rand(2, device=device)
results["unseeded"] = sum(LEDGER.unseeded.values())
with torch.inference_mode():
    results["in inference mode"] = (host.to(device) @ host.to(device).T).cpu().tolist()
devices = [str(tensor.device) for tensor in (here, torch.zeros_like(here))]
results["types"] = [type(here) is PretendTensor, *devices]
print("\\n" + json.dumps(results))
"""


@pytest.fixture(scope="module")
def results() -> dict:
    """Output of the script, which needs its own process."""
    command = [sys.executable, "-c", SCRIPT]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


def test_rejects_what_cuda_rejects(results):
    passed = [name for name, outcome in results["rejected"].items() if outcome == "ok"]
    assert passed == []
    for name in ("add", "matmul", "cat", "index host", "inference"):
        assert "expected all tensors on one device" in results["rejected"][name]


def test_allows_what_cuda_allows(results):
    assert set(results["allowed"].values()) == {"ok"}


def test_computes_like_the_cpu(results):
    actual, expected = results["gradient"]
    assert actual == expected
    assert results["views share memory"]
    assert results["in inference mode"] == [[5.0, 14.0], [14.0, 50.0]]


def test_counts_launches_syncs_and_uploads(results):
    # 3 + 1 read; mask and gather; mask and masked fill; copy
    counts = results["counts"]
    assert counts["syncs"] == 2
    assert counts["uploads"] <= 2
    assert 8 <= counts["launches"] <= 11


def test_finds_leftover_tensors_and_unseeded_random_numbers(results):
    assert results["left"] == ["result.a.1"]
    assert results["module"] == ["result.weight", "result.bias"]
    assert results["module back"] == []
    assert results["unseeded"] == 1
    assert results["types"] == [True, "pretend:0", "pretend:0"]

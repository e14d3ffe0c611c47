"""The estimated peak memory of decoding against a full-size decoder's measured memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import sys, threading, time
import psutil, torch
from nova3d_core.diffusion.codecs.vae import VaeCodec, build_vae
from nova3d_core.diffusion.codecs.vae_config import VaeConfig

temporal, size, count = sys.argv[1] == "video", int(sys.argv[2]), int(sys.argv[3])
vae = build_vae(VaeConfig(temporal=temporal))
state = {name: torch.zeros(value.shape) for name, value in vae.state_dict().items()}
vae.load_state_dict(state, assign=True)
codec = VaeCodec(vae.eval().requires_grad_(False))
process = psutil.Process()
before, peak, done = process.memory_info().rss, 0, threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.005)

watcher = threading.Thread(target=watch)
watcher.start()
codec.decode(torch.zeros(count, 4, size // 8, size // 8), count, count)
done.set()
watcher.join()
print(peak - before, codec.decode_peak_bytes(size, size, count, torch.float32))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["video", "frame"])
@pytest.mark.parametrize("count", [1, 2])
def test_decoding_memory_matches_estimate(kind, count):
    pytest.importorskip("psutil")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, kind, "256", str(count)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    measured, estimate = map(int, done.stdout.split())
    assert 0.5 * estimate < measured < 1.1 * estimate

"""Noise levels: stages of the distribution, and stratified sampling of a batch."""

from __future__ import annotations

import math

import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.training.config import PAPER_STAGES, NoiseStage, TrainConfig
from nova3d_core.training.noise import log_normal_sigmas, stage_at, stratified_normals


def test_paper_stages_start_at_the_papers_steps():
    at = {step: stage_at(PAPER_STAGES, step, 30_000) for step in (0, 7999, 8000, 15_999, 16_000)}
    assert (at[0].mean, at[0].std) == (1.0, 1.6)
    assert at[7999] == at[0]
    assert (at[8000].mean, at[8000].std) == (1.8, 1.6)
    assert at[15_999] == at[8000]
    assert (at[16_000].mean, at[16_000].std) == (2.2, 1.8)
    last = stage_at(PAPER_STAGES, 24_000, 30_000)
    assert (last.mean, last.std) == (2.5, 2.0)
    assert stage_at(PAPER_STAGES, 23_999, 30_000).mean == 2.2


@pytest.mark.parametrize("steps", [30, 300, 3000, 15])
def test_stages_scale_with_the_length_of_the_run(steps):
    means = [stage_at(PAPER_STAGES, step, steps).mean for step in range(steps)]
    counts = [means.count(mean) for mean in (1.0, 1.8, 2.2, 2.5)]
    assert counts == [math.ceil(steps * 8 / 30)] * 3 + [steps - 3 * math.ceil(steps * 8 / 30)]


def test_sigmas_are_log_normal():
    normals = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    logs = log_normal_sigmas(NoiseStage(0.0, 1.8, 1.6), normals).log()
    assert abs(float(logs.mean()) - 1.8) < 0.02
    assert abs(float(logs.std()) - 1.6) < 0.02


def test_stratified_batch_has_one_sample_per_stratum_and_is_normal_overall():
    batch, repeats = 4, 50_000
    generator = torch.Generator().manual_seed(0)
    uniforms = torch.rand((repeats, batch), generator=generator)
    normals = stratified_normals(uniforms, torch.arange(batch), batch)
    quarter = 0.6744897501960817
    strata = torch.bucketize(normals, torch.tensor([-quarter, 0.0, quarter]))
    assert torch.equal(strata, torch.arange(batch).expand(repeats, -1))
    samples = normals.flatten()
    assert abs(float(samples.mean())) < 0.01
    assert abs(float(samples.std()) - 1.0) < 0.01
    assert abs(float((samples**4).mean()) - 3.0) < 0.1


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_quantiles_0_and_1_stay_finite(edge):
    both = stratified_normals(torch.tensor([edge, edge]), torch.tensor([0, 1]), 2)
    assert bool(torch.isfinite(both).all())
    assert float(both.abs().max()) < 5.0


@pytest.mark.parametrize("starts", [(), (0.1,), (0.0, 0.6, 0.4), (0.0, 1.2)])
def test_rejects_stages_out_of_order(starts):
    with pytest.raises(InputError, match="noise sta"):  # NoiseStage itself rejects a start beyond 1
        TrainConfig(noise=tuple(NoiseStage(start, 1.0, 1.0) for start in starts))

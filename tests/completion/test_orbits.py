"""Random orbits: the sampler accepts them, and they turn to what is unseen."""

from __future__ import annotations

import logging

import torch

from nova3d_core.cameras.cameras import cameras_at
from nova3d_core.cameras.orbits import preset_orbit
from nova3d_core.completion.orbits import best_orbit, random_orbit
from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.sampling.trajectory import plan_trajectory

FAMILY = FAMILIES["sv3d_p"]


def test_a_thousand_orbits_are_accepted(caplog):
    rig = preset_orbit(FAMILY.orbit, 64, 64).rig
    with caplog.at_level(logging.WARNING):
        for seed in range(1000):
            random = torch.Generator().manual_seed(seed)
            elevation_deg = float(torch.rand((), generator=random)) * 140.0 - 70.0
            shift_deg = (-25.0, 0.0, 25.0)[seed % 3]
            azimuths, elevations = random_orbit(21, elevation_deg, shift_deg, random)
            assert float(elevations.abs().max()) <= 70.0
            assert float(elevations[-1]) == elevation_deg and float(azimuths[-1]) == 0.0
            assert bool((azimuths[:-1].diff() > 0.0).all())
            assert 0.0 < float(azimuths[0]) < float(azimuths[-2]) < 360.0
            if seed % 10 == 0 or abs(elevation_deg) > 65.0:  # a planned trajectory has poses
                cameras = cameras_at(azimuths.tolist(), elevations.tolist(), rig)
                planned = plan_trajectory(FAMILY, 64, cameras=cameras)
                assert planned.input_view == 20
                assert abs(float(planned.elevations_deg[-1]) - elevation_deg) < 1e-2
                assert float(planned.azimuths_deg[-1]) == 0.0
    assert not caplog.text


def test_orbits_differ_and_seeds_repeat_them():
    def draw(seed):
        return torch.cat(random_orbit(21, 10.0, 25.0, torch.Generator().manual_seed(seed)))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_the_orbit_rises_above_unseen_tops_and_falls_below_unseen_bottoms():
    normals = torch.nn.functional.normalize(
        torch.randn(6000, 3, generator=torch.Generator().manual_seed(0)), dim=1
    )
    for sign in (1.0, -1.0):
        weights = (sign * normals[:, 1] > 0.5).float()
        random = torch.Generator().manual_seed(3)
        _, elevations = best_orbit(21, 5.0, normals, weights, random)
        assert sign * float(elevations.mean()) > 10.0

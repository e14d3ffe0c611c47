"""Random camera orbits of training data. The input view is the first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from .orbits import TrainingOrbit

ELEVATION_RANGE_DEG = (-5.0, 30.0)
"""Elevation of static orbits, mean elevation of dynamic ones, and the pitch of tilted objects."""
MAX_ELEVATION_DEG = 89.0
"""Of any camera of a dynamic orbit."""
DYNAMIC_FRAMES_PER_VIEW = 4
"""Dynamic orbits are subsampled from longer ones: 84 frames for 21 views."""
SINE_COUNT = 84
"""Number of sines in the elevation, as in the released code of SV3D."""
SINE_PERIODS = (1, 5)
"""Range of their whole number of periods per orbit."""
SINE_AMPLITUDE_DEG = (0.5, 10.0)
"""Range of their amplitudes."""
SMOOTHING_FRAMES = 5
"""Length of the moving average over the elevations."""
AZIMUTH_JITTER = 0.25
"""Largest deviation of an azimuth of a dynamic orbit, as a fraction of the step between views."""
MAX_EXTENT = 0.9
"""Fraction of the image that the object fills, in its largest view, where the distance is fit."""


@dataclass(frozen=True, eq=False)
class SampledOrbit:
    """One orbit around an object."""

    azimuths_deg: ndarray
    """(V,) relative to the input view, which is the first, at 0; increasing."""
    elevations_deg: ndarray
    """(V,) of the cameras."""
    yaw_deg: float
    """Rotation of the object about +Y before it is rendered."""
    pitch_deg: float
    """Rotation of the object about +X after that; positive shows its top."""


_ORBIT_KEY = 1
"""Distinguishes the random numbers of an orbit from others of the same object."""


def orbit_of_object(orbit: TrainingOrbit, views: int, *key: int) -> SampledOrbit | None:
    """The orbit of one object as `sample_orbit`; None where nothing about it is random."""
    if orbit.motion == "level" and not orbit.random_yaw:
        return None
    return sample_orbit(orbit, views, *key, _ORBIT_KEY)


def sample_orbit(orbit: TrainingOrbit, views: int, *key: int) -> SampledOrbit:
    """The orbit of one object.

    Args:
        orbit: its kind.
        views: number of views.
        key: integers that determine all random choices, such as a seed and the object's number.
    """
    rng = np.random.default_rng(key)
    yaw_deg = float(rng.uniform(0.0, 360.0)) if orbit.random_yaw else 0.0
    even = np.array(orbit.base_azimuths(views))
    level = np.zeros(views)
    if orbit.motion == "level":
        return SampledOrbit(even, level, yaw_deg, 0.0)
    elevation_deg = float(rng.uniform(*ELEVATION_RANGE_DEG))
    if orbit.motion == "tilted":
        return SampledOrbit(even, level, yaw_deg, elevation_deg)
    if orbit.motion == "static":
        return SampledOrbit(even, level + elevation_deg, yaw_deg, 0.0)
    jitter = rng.uniform(-AZIMUTH_JITTER, AZIMUTH_JITTER, views) * (360.0 / views)
    jitter[0] = 0.0  # the input view
    return SampledOrbit(even + jitter, dynamic_elevations(rng, views, elevation_deg), yaw_deg, 0.0)


def dynamic_elevations(rng: np.random.Generator, views: int, mean_deg: float) -> ndarray:
    """(V,) elevations of a dynamic orbit: e(t) = mean + sum of a_k sin(2 pi f_k t + phi_k).

    The sum is smoothed by a cyclic moving average and subsampled. Sums that come near a pole are
    drawn again, as in the released code of SV3D.

    Args:
        rng: source of the amplitudes a_k, whole frequencies f_k and phases phi_k.
        views: V.
        mean_deg: mean elevation, within `ELEVATION_RANGE_DEG`.
    """
    frames = views * DYNAMIC_FRAMES_PER_VIEW
    time = np.arange(frames) / frames
    low, high = SINE_PERIODS
    half = SMOOTHING_FRAMES // 2
    while True:
        frequencies = rng.integers(low, high + 1, SINE_COUNT)
        amplitudes = rng.uniform(*SINE_AMPLITUDE_DEG, SINE_COUNT)
        phases = rng.uniform(0.0, 2.0 * np.pi, SINE_COUNT)
        waves = np.sin(2.0 * np.pi * frequencies[:, None] * time + phases[:, None])  # (K, frames)
        elevations = mean_deg + amplitudes @ waves
        smooth = np.mean([np.roll(elevations, shift) for shift in range(-half, half + 1)], axis=0)
        if np.abs(smooth).max() <= MAX_ELEVATION_DEG:
            return smooth[::DYNAMIC_FRAMES_PER_VIEW]

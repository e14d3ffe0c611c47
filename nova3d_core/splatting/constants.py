"""Constants of splat rendering; those of the released 3D Gaussian splatting unless noted."""

from __future__ import annotations

NEAR = 0.01
"""Depth of the near plane in world units: nearer centres are not drawn; as in gsplat."""
BLUR_PX2 = 0.1
"""Variance of the low-pass filter that is added to each 2D Gaussian, in pixels squared: about that
of a pixel's area (Z. Yu et al., "Mip-Splatting", 2024)."""
RELEASED_BLUR_PX2 = 0.3
"""The same in the released 3D Gaussian splatting, for networks that were trained with it."""
MIN_ALPHA = 1.0 / 255.0
"""Contributions below it are skipped."""
MAX_ALPHA = 0.999
"""Upper limit of alpha, so that the transmittance never becomes 0; as in gsplat."""
MIN_TRANSMITTANCE = 1e-4
"""A pixel stops before the splat that would bring its transmittance below this."""
FRUSTUM_MARGIN = 0.3
"""Margin of the frustum, as a ratio of its half-width, to which the Jacobian's point is clamped."""

"""Light in views: spherical Gaussians, their fit together with the albedo, and its removal."""

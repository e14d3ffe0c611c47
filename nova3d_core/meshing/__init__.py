"""A surface to a clean, light, unwrapped mesh."""

"""From views to a textured mesh: the stages, and all of them in sequence."""

"""Views and splats sampled together: the reconstruction of each step is fed back to the next."""

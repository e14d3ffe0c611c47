"""Multi-view diffusion: generates views of an object from one image."""

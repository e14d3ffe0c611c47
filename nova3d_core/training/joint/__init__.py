"""Joint training of a multi-view diffusion and a reconstruction model, as in Ouroboros3D."""

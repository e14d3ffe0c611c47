"""Files of Gaussian splats: .ply as in 3D Gaussian splatting, and .splat."""

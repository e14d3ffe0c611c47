"""The video UNet of SVD, SV3D, V3D and NOVA3D."""

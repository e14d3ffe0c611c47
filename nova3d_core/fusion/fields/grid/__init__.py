"""The dense signed distance grid, in warp kernels and in PyTorch."""

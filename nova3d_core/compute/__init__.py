"""Where the work runs: devices, memory, threads and warp kernels."""

"""The hash grid field of the paper: multi-resolution encoding and small networks."""

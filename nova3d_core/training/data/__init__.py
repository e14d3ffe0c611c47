"""Training data: rendering, shards, streams, latents, batches."""

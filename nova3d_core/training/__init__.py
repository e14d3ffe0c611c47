"""Training multi-view models: data, trainer, checkpoints, validation."""

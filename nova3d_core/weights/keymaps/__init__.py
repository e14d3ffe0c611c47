"""Parameter names: our modules mapped to the layouts of public checkpoints."""

"""Parameter names: our modules against the layouts of public files."""

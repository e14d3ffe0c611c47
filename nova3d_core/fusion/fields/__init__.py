"""Two fields of signed distance and colour behind one interface."""

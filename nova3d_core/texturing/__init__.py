"""Views onto a mesh."""

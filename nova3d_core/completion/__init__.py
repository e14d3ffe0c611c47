"""Completion of textures: a multi-view model generates what no view has seen."""

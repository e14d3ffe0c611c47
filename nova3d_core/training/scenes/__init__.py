"""Training of V3D's model for scenes: data, network and objective."""

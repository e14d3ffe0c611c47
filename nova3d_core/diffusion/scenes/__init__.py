"""Views along a camera path through a scene, from posed source images (V3D, section 3.4)."""

"""How close a mesh is to another one."""

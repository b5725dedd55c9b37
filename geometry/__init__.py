"""Cameras, meshes, rasterisers and distances between surfaces: mathematics, no sockets, no threads of its own."""

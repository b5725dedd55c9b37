"""The server: receive -> synchronise -> decode -> normals -> surface -> preview and takes."""

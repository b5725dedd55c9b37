"""The node: camera drivers -> JPEG -> stream. One process a camera PC."""

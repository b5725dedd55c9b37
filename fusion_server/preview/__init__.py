"""The operator's window: the live head, every camera, rates and the record button, in a browser."""

from fusion_server.preview.viewer import Preview

__all__ = ["Preview"]

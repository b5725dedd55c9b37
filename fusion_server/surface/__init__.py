"""From normal maps, masks and pictures of one frame to a mesh: a keyframe first, then warm frames on its topology."""

from fusion_server.surface.base import Quality, SurfaceError, SurfaceFrame, SurfaceSettings, View
from fusion_server.surface.track import SurfaceTracker

__all__ = ["Quality", "SurfaceError", "SurfaceFrame", "SurfaceSettings", "SurfaceTracker", "View"]

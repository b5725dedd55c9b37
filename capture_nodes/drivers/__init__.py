"""Camera drivers by the name that the rig file uses. A driver's module is imported when a rig asks for it."""

from __future__ import annotations

import importlib

from capture_nodes.drivers.base import Driver, DriverError
from protocol.rig import CameraConfig, Rig
from protocol.table import nearest

DRIVERS = {"replay": "capture_nodes.drivers.replay:ReplayDriver"}


def make_driver(camera: CameraConfig, rig: Rig) -> Driver:
    """The driver of a camera, not yet opened. Raises DriverError for an unknown name or wrong options."""
    if camera.driver not in DRIVERS:
        at = f"rig {rig.name!r}: camera[{rig.camera_ids.index(camera.id)}].driver"
        hint = nearest(camera.driver, DRIVERS)
        raise DriverError(f"{at}: {camera.driver!r}; must be {' or '.join(map(repr, DRIVERS))}{hint}")
    module, _, name = DRIVERS[camera.driver].partition(":")
    return getattr(importlib.import_module(module), name)(camera, rig)

"""Camera drivers by the name that the rig file uses. A driver's module is imported when a rig asks for it."""

from __future__ import annotations

import importlib
from types import ModuleType

from capture_nodes.drivers.base import Attached, Driver, DriverError
from protocol.rig import CameraConfig, Rig
from protocol.table import nearest

DRIVERS = {
    "replay": "capture_nodes.drivers.replay:ReplayDriver",
    "opencv": "capture_nodes.drivers.opencv:OpencvDriver",
    "gige": "capture_nodes.drivers.gige:GigeDriver",
    "pylon": "capture_nodes.drivers.pylon:PylonDriver",
}
EXTRAS = {"opencv": "video", "gige": "gige", "pylon": "pylon"}  # of headstream, that bring a driver's package
DISCOVERING = ("gige", "pylon", "opencv")  # drivers that can say what is attached


def make_driver(camera: CameraConfig, rig: Rig) -> Driver:
    """The driver of a camera, not yet opened. Raises DriverError for an unknown name or wrong options."""
    if camera.driver not in DRIVERS:
        at = f"rig {rig.name!r}: camera[{rig.camera_ids.index(camera.id)}].driver"
        hint = nearest(camera.driver, DRIVERS)
        raise DriverError(f"{at}: {camera.driver!r}; must be {' or '.join(map(repr, DRIVERS))}{hint}")
    _, _, name = DRIVERS[camera.driver].partition(":")
    try:
        module = driver_module(camera.driver)
    except DriverError as error:
        raise DriverError(f"rig {rig.name!r}: camera[{rig.camera_ids.index(camera.id)}].driver: {error}") from None
    return getattr(module, name)(camera, rig)


def driver_module(driver: str) -> ModuleType:
    """The module of a driver. Raises DriverError when its package is not installed."""
    try:
        return importlib.import_module(DRIVERS[driver].partition(":")[0])
    except ImportError as error:
        if driver not in EXTRAS:
            raise
        extra = f"pip install 'headstream[{EXTRAS[driver]}]'"
        raise DriverError(f"{driver!r} cannot be loaded ({error}); it needs: {extra}") from None


def attached_cameras(driver: str) -> list[Attached]:
    """The cameras of this machine that a driver of ``DISCOVERING`` could open. Raises DriverError."""
    return driver_module(driver).attached()

"""``headstream cameras``: what is attached to this machine, and which of the rig's cameras that is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from capture_nodes.drivers import DISCOVERING, attached_cameras
from capture_nodes.drivers.base import Attached
from protocol.errors import HeadstreamError
from protocol.rig import Rig


@dataclass(frozen=True)
class Listing:
    """What was found, and what could not be looked for: driver to the one line that says why."""

    cameras: tuple[Attached, ...]
    not_searched: dict[str, str]


def look() -> Listing:
    """Ask every driver whose package is installed."""
    found: list[Attached] = []
    failed = {}
    for driver in DISCOVERING:
        try:
            found += attached_cameras(driver)
        except HeadstreamError as error:
            failed[driver] = str(error)
    return Listing(tuple(found), failed)


def rows(listing: Listing, rig: Rig | None) -> list[dict[str, Any]]:
    """One table a camera: what is attached, its ``rig_camera`` (id or None); then the rig's that are not attached.

    A camera that several drivers see (a Basler one over GigE) has a row for each; the rig's driver is the one meant.
    """
    out: list[dict[str, Any]] = []
    seen = set()
    for camera in listing.cameras:
        owner = _owner(camera, rig)
        seen.add(owner)
        out.append({**asdict(camera), "attached": True, "rig_camera": owner})
    for entry in rig.cameras if rig else ():
        if (
            entry.driver in DISCOVERING
            and entry.id not in seen
            and not (entry.options.get("url") or _file(entry.options))
        ):
            missing = Attached(entry.driver, entry.serial or str(entry.options.get("ip", "")))
            out.append({**asdict(missing), "attached": False, "rig_camera": entry.id, "node": entry.node})
    return out


def table(found: list[dict[str, Any]], listing: Listing, rig: Rig | None) -> str:
    """For people: a line a camera, then what was not searched and how to change that."""
    head = ["driver", "serial", "model", "address", "firmware", "state"] + (["rig"] if rig else [])
    lines = [head]
    for row in found:
        model = " ".join(text for text in (row["vendor"], row["model"]) if text)
        line = [row["driver"], row["serial"], model, row["address"], row["firmware"], _state(row)]
        lines.append(line + ([_role(row)] if rig else []))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    if not found:
        text = ["no camera is attached to this machine"]
    return "\n".join([*text, *(f"not searched: {error}" for error in listing.not_searched.values())])


def _owner(camera: Attached, rig: Rig | None) -> str | None:
    for entry in rig.cameras if rig else ():
        wanted = (entry.serial, entry.options.get("ip"))
        names = (
            (camera.serial, camera.model) if camera.driver == "opencv" else (camera.serial,)
        )  # model: the whole name
        if entry.driver == camera.driver and (wanted[0] in names if wanted[0] else wanted[1] == camera.address):
            return entry.id
    return None


def _file(options: dict[str, Any]) -> bool:
    return bool(options.get("file"))


def _state(row: dict[str, Any]) -> str:
    if not row["attached"]:
        return "missing"
    return {True: "in use", False: "free", None: "attached"}[row["busy"]]


def _role(row: dict[str, Any]) -> str:
    if row["rig_camera"] is None:
        return "not in the rig"
    return row["rig_camera"] if row["attached"] else f"{row['rig_camera']} (node {row['node']})"

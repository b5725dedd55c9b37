"""Log lines of many nodes in one stream: whose is each."""

from __future__ import annotations

import json
import re
from collections.abc import Set

_CAMERA = re.compile(r"\bcamera ([A-Za-z0-9][A-Za-z0-9_.-]*)")


def labelled(node: str, line: str, cameras: Set[str]) -> str:
    """``[pc1/cam03] ...`` where the line speaks of one of the node's cameras, else ``[pc1] ...``.

    A line is text in which ``camera cam03`` stands, or a JSON object with a ``camera``.
    """
    camera = ""
    if line.startswith("{"):
        try:
            data = json.loads(line)
        except ValueError:
            data = {}
        camera = data.get("camera", "")
    else:
        camera = next((found.rstrip(".") for found in _CAMERA.findall(line) if found.rstrip(".") in cameras), "")
    return f"[{node}/{camera}] {line}" if camera in cameras else f"[{node}] {line}"

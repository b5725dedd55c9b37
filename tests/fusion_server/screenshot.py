"""A picture of the preview in headless Chromium, optionally after presses of its buttons.

    .venv/bin/python tests/fusion_server/screenshot.py http://127.0.0.1:8080 preview.png [--press Record]

Drives Chromium through its debugging protocol with the websockets package, which viser brings along.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

FLAGS = (
    *("--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),  # WebGL without a GPU
    *("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PRESS = """(() => {{
  const found = [...document.querySelectorAll("button")].filter(b => b.innerText.trim() === {label});
  if (found.length) found[0].click();
  return found.length;
}})()"""


def chromium() -> str | None:
    """The browser's path, None where it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One headless page; use in a with statement."""

    def __init__(self, width: int = 1440, height: int = 900):
        self._folder = tempfile.TemporaryDirectory()
        command = [chromium(), *FLAGS, f"--window-size={width},{height}", f"--user-data-dir={self._folder.name}"]
        self._process = subprocess.Popen(
            [*command, "--remote-debugging-port=0", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._number = 0

    def __enter__(self) -> Browser:
        port_file = Path(self._folder.name) / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not port_file.exists() or len(port_file.read_text().split()) < 2:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError("Chromium did not start")
            time.sleep(0.05)
        port, path = port_file.read_text().split()
        self._socket = connect(f"ws://127.0.0.1:{port}{path}", max_size=None)
        targets = self._ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._socket.close()
        self._folder.cleanup()

    def open(self, address: str) -> None:
        """Go to a page."""
        self._ask("Page.navigate", url=address)

    def value(self, script: str) -> Any:
        """What a script gives."""
        return self._ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60.0) -> Any:
        """Until a script gives something true; returns that."""
        deadline = time.monotonic() + seconds
        while not (got := self.value(script)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"never true: {script}")
            time.sleep(0.2)
        return got

    def wait_for_text(self, text: str, seconds: float = 60.0) -> None:
        """Until the page shows this text."""
        self.wait_for(f"document.body.innerText.includes({json.dumps(text)})", seconds)

    def press(self, label: str) -> None:
        """Click the button of this label, once it is there."""
        self.wait_for(PRESS.format(label=json.dumps(label)))

    def picture(self) -> bytes:
        """The page as PNG."""
        return base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]


def main() -> None:
    """Take one picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("out", type=Path)
    parser.add_argument("--press", action="append", default=[], help="label of a button to press first")
    parser.add_argument("--wait", type=float, default=8.0, help="seconds for the scene to settle")
    options = parser.parse_args()
    with Browser() as browser:
        browser.open(options.address)
        browser.wait_for_text("meshes/s")
        for label in options.press:
            browser.press(label)
        time.sleep(options.wait)
        options.out.write_bytes(browser.picture())


if __name__ == "__main__":
    main()

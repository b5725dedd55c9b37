"""The preview's viser server, and the one thread that talks to it.

``update_*`` only put down the newest values and return at once; the thread sends what is new at most 15 times a second
(once a second while nobody watches). Between two of those the older value is simply replaced. A slow browser holds up
nobody: viser keeps one message per property and gives each client the latest.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import rich
import viser
import viser.transforms

from fusion_server.colour import LiveColours, Photo
from fusion_server.preview.access import Access, new_token
from fusion_server.preview.gate import Gate
from fusion_server.preview.glb import coloured_glb
from fusion_server.preview.panel import (
    alarms_markdown,
    cameras_markdown,
    mosaic,
    recording_markdown,
    status_markdown,
    time_markdown,
)
from geometry.cameras import rig_center
from geometry.rasterize.cpu import CpuRasterizer
from protocol.calibration import Calibration
from protocol.errors import HeadstreamError
from protocol.rig import Rig, is_loopback

log = logging.getLogger(__name__)

_PERIOD_S = 1 / 15
_UNWATCHED_PERIOD_S = 1.0
_OVERLAP_S = 0.05  # a coloured mesh stays until the browser has surely read the next one: no moment without a head
_SKIN = (196, 162, 144)
_FRUSTUM = (120, 140, 165)
_FAR_M = 0.7  # the first look: from in front of the subject (+Z)
_FIELD_OF_VIEW = math.radians(35)
_PANEL_WIDTH = 400
_RECORD = ("Record", "red", viser.Icon.PLAYER_RECORD)
_STOP = ("Stop", "gray", viser.Icon.PLAYER_STOP)
_ANEW_HINT = (
    "of a neutral face, mouth closed: later ones keep its faces and follow its skin. Not while a take is recorded"
)
_LIGHTS = (  # name, metres from the rig's centre, colour, strength: a portrait's three lights
    ("key", (-2.2, 1.5, 1.4), (255, 249, 242), 1.5),
    ("fill", (2.4, 0.1, 1.2), (205, 222, 255), 0.35),
    ("rim", (1.2, 1.6, -2.4), (255, 255, 255), 1.2),
)


class Preview:
    """Serves ``http://<preview_host>:<preview_port>``. Raises HeadstreamError when the port is in use.

    On an address beyond loopback it asks for a token (``access``), which is part of ``address`` and logged once.

    ``on_record(wanted, slate)`` is called when the operator presses the button, ``on_anew()`` when a new first mesh is
    wanted, on a thread of the preview's; a HeadstreamError that they raise is shown to the operator. What is being
    recorded is read from ``status["take"]``. The ``update_`` methods may be called from any thread and never wait;
    arrays must not be changed afterwards.
    """

    def __init__(
        self,
        rig: Rig,
        calibration: Calibration,
        on_record: Callable[[bool, str], None] | None = None,
        on_anew: Callable[[], None] | None = None,
    ):
        self._calibration = calibration
        self._on_record, self._on_anew = on_record, on_anew
        host, self._gate = rig.server.preview_host, None
        if is_loopback(host):
            self._server = _serve(host, rig.server.preview_port, rig.name)
            self.port: int = self._server.get_port()
            self.address = f"http://{_in_address(host)}:{self.port}"
        else:
            listener = _listen(host, rig.server.preview_port)
            self.port = listener.getsockname()[1]
            self._server = _serve("127.0.0.1", 0, rig.name)
            token = rig.server.preview_token or new_token()
            self._gate = Gate(listener, self._server.get_port(), Access(token, self.port))
            self.address = f"http://{_in_address(host)}:{self.port}/?token={token}"
        log.info("preview: %s", self.address)
        self._mesh: viser.MeshHandle | None = None
        self._faces: np.ndarray | None = None
        self._colours = LiveColours(CpuRasterizer())
        self._painted: viser.GlbHandle | None = None
        self._retired: viser.GlbHandle | None = None
        self._take: str | None = None
        self._trouble = ""
        self._new: dict[str, Any] = {}
        self._ready = threading.Condition()
        self._closing = False
        self._scene()
        self._panel()
        self._thread = threading.Thread(target=self._run, name="preview", daemon=True)
        self._thread.start()

    def update_mesh(self, vertices: np.ndarray, faces: np.ndarray, photos: Sequence[Photo] = ()) -> None:
        """Show this mesh. vertices: (P, 3) world metres; faces: (F, 3), quickest when the same array comes again.

        photos: what the cameras saw at that moment; with them the operator may look at it in colour.
        """
        self._put("mesh", (vertices, faces, photos))

    def update_thumbnails(self, images: Mapping[str, np.ndarray]) -> None:
        """Show these pictures, (h, w, 3) uint8 RGB by camera; a camera that is left out is shown as missing."""
        self._put("thumbnails", dict(images))

    def update_status(self, status: Mapping[str, Any]) -> None:
        """Show rates and state (``Server.status``)."""
        self._put("status", dict(status))

    def close(self) -> None:
        """End the thread and the server; may be called twice."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._thread.join()
        if self._gate is not None:
            self._gate.close()
        with _quiet_viser():
            self._server.stop()

    @property
    def refused(self) -> int:
        """Requests that came without the right token."""
        return self._gate.refused if self._gate is not None else 0

    def _put(self, kind: str, value: Any) -> None:
        with self._ready:
            self._new[kind] = value
            self._ready.notify()

    def _run(self) -> None:
        show: dict[str, Callable[[Any], None]] = {
            "mesh": self._show_mesh,
            "thumbnails": self._show_thumbnails,
            "status": self._show_status,
            "take": self._show_take,
        }
        while True:
            with self._ready:
                while not self._new and not self._closing:
                    self._ready.wait()
                if self._closing:
                    return
                new, self._new = self._new, {}
            start = time.monotonic()
            with self._server.atomic():
                for kind, value in new.items():
                    show[kind](value)
            self._retire()
            period = _PERIOD_S if self._server.get_clients() else _UNWATCHED_PERIOD_S
            with self._ready:
                self._ready.wait_for(lambda: self._closing, max(0.0, period - (time.monotonic() - start)))

    def _show_mesh(self, mesh: tuple[np.ndarray, np.ndarray, Sequence[Photo]]) -> None:
        vertices, faces, photos = mesh
        if photos and self._in_colour.value and self._server.get_clients():
            self._show_painted(vertices, faces, photos)
            return
        vertices = np.ascontiguousarray(vertices, np.float32)
        same = faces is self._faces or (self._faces is not None and np.array_equal(faces, self._faces))
        if self._mesh is not None and same and vertices.shape == self._mesh.vertices.shape:
            self._mesh.vertices = vertices
            self._mesh.visible = True
        else:
            self._mesh = self._server.scene.add_mesh_simple(
                "/head", vertices, faces, color=_SKIN, flat_shading=False, side="double"
            )
        self._faces = faces
        if self._painted is not None:
            self._painted.remove()
            self._painted = None

    def _show_painted(self, vertices: np.ndarray, faces: np.ndarray, photos: Sequence[Photo]) -> None:
        """The mesh with the cameras' colours. viser moves no coloured mesh: each is new, beside the one before."""
        colours = self._colours.of(np.asarray(vertices, np.float64), faces, photos, time.monotonic())
        before = self._painted
        name = "/head_painted_b" if before is not None and before.name.endswith("a") else "/head_painted_a"
        self._painted = self._server.scene.add_glb(name, coloured_glb(vertices, faces, colours), cast_shadow=False)
        self._retired = before
        if self._mesh is not None and self._mesh.visible:
            self._mesh.visible = False

    def _retire(self) -> None:
        """Take away the coloured mesh before the last, once the browser has had time to read its successor."""
        if self._retired is None:
            return
        with self._ready:
            self._ready.wait_for(lambda: self._closing, _OVERLAP_S)
        self._retired.remove()
        self._retired = None

    def _show_thumbnails(self, images: dict[str, np.ndarray]) -> None:
        self._thumbnails.image = mosaic(images, self._calibration.names)

    def _show_status(self, status: dict[str, Any]) -> None:
        self._status.content = status_markdown(status)
        self._alarms.content = alarms_markdown(status.get("alarms", ()), status.get("time_ns", 0))
        self._time.content = time_markdown(status)
        self._cameras.content = cameras_markdown(status.get("cameras", {}))
        self._show_take(status.get("take"))

    def _show_take(self, take: str | None) -> None:
        text = recording_markdown(take, self._trouble)
        if self._recording.content != text:
            self._recording.content = text
        self._anew.disabled = self._on_anew is None or take is not None
        if (take is None) != (self._take is None):
            self._button.label, self._button.color, self._button.icon = _RECORD if take is None else _STOP
        self._take = take

    def _pressed(self, event: viser.GuiEvent) -> None:
        """The button: runs on a thread of viser's."""
        if self._on_record is None:
            return
        wanted, slate = self._take is None, self._slate.value.strip()
        self._button.disabled = True
        try:
            self._on_record(wanted, slate)
        except HeadstreamError as error:
            self._trouble = str(error)
            log.warning("%s", error)
            self._put("take", self._take)
        else:
            self._trouble = ""
            self._put("take", slate if wanted else None)  # until the next status says its whole name
        finally:
            self._button.disabled = False

    def _wants_anew(self, event: viser.GuiEvent) -> None:
        """The other button, likewise."""
        assert self._on_anew is not None
        try:
            self._on_anew()
        except HeadstreamError as error:
            self._trouble = str(error)
            log.warning("%s", error)
        else:
            self._trouble = ""
        self._put("take", self._take)

    def _scene(self) -> None:
        cameras = self._calibration.cameras
        try:
            center = rig_center(cameras)
        except ValueError:
            center = np.zeros(3)
        scene = self._server.scene
        scene.set_up_direction("+y")
        scene.world_axes.visible = False
        scene.set_background_image(_backdrop(), format="png")
        scene.configure_default_lights(False)
        scene.configure_environment_map("studio", environment_intensity=0.09)
        for name, position, color, intensity in _LIGHTS:
            at = center + np.array(position)
            scene.add_light_directional(f"/lights/{name}", color=color, intensity=intensity, position=tuple(at))
        initial = self._server.initial_camera
        initial.position, initial.look_at = center + [0, 0, _FAR_M], center
        initial.fov, initial.near, initial.far = _FIELD_OF_VIEW, 0.005, 100.0
        reach = float(np.median([np.linalg.norm(camera.center - center) for camera in cameras]))
        for camera in cameras:
            scene.add_camera_frustum(
                f"/cameras/{camera.name}",
                fov=2 * math.atan(camera.height / (2 * camera.K[1, 1])),
                aspect=camera.width / camera.height,
                scale=0.08 * reach,
                thickness=1.5,
                thickness_units="screen",
                color=_FRUSTUM,
                wxyz=viser.transforms.SO3.from_matrix(camera.R.T).wxyz,
                position=camera.center,
            )

    def _panel(self) -> None:
        gui = self._server.gui
        gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        gui.main_panel.dock_right()
        gui.main_panel.set_width(_PANEL_WIDTH)
        with gui.add_folder("Take"):
            self._slate = gui.add_text("Slate", "take", hint="letters, digits, . _ -; each take gets the next number")
            label, color, icon = _RECORD
            self._button = gui.add_button(label, color=color, icon=icon)
            self._button.disabled = self._on_record is None
            self._recording = gui.add_markdown(recording_markdown(None))
        self._anew = gui.add_button("New first mesh", color="gray", icon=viser.Icon.REFRESH, hint=_ANEW_HINT)
        self._anew.disabled = self._on_anew is None
        self._in_colour = gui.add_checkbox("Colour", False, hint="what the cameras see on the mesh, instead of clay")
        with gui.add_folder("Status"):
            self._status = gui.add_markdown("waiting for the first frames")
            self._alarms = gui.add_markdown("no alarm")
        with gui.add_folder("Cameras"):
            self._thumbnails = gui.add_image(mosaic({}, self._calibration.names), format="jpeg", jpeg_quality=80)
            self._cameras = gui.add_markdown("")
        with gui.add_folder("Time"):
            self._time = gui.add_markdown("")
        self._button.on_click(self._pressed)
        self._anew.on_click(self._wants_anew)


@contextlib.contextmanager
def _quiet_viser() -> Iterator[None]:
    """Keeps viser's own lines off the standard output, which belongs to whoever runs the server."""
    console = rich.get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def _backdrop() -> np.ndarray:
    """A dark picture, lighter in the middle, behind the head.  # 256,256,3 uint8"""
    x, y = np.meshgrid(np.linspace(-1, 1, 256), np.linspace(-1, 1, 256))
    glow = np.exp(-1.2 * (x**2 + y**2))[..., None]
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, glow.shape)  # else the few greys make visible rings
    return np.round([24, 26, 30] + glow * [38, 41, 46] + noise).astype(np.uint8)


def _in_address(host: str) -> str:
    """A host as it is typed into a browser; of all addresses of a machine, its name."""
    host = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"[{host}]" if ":" in host else host


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens on exactly this port. Raises HeadstreamError."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # two may bind, one may listen
    except OSError as error:
        listener.close()
        raise HeadstreamError(
            f"http://{_in_address(host)}:{port}: the preview cannot listen there ({error.strerror}); "
            "see server.preview_host and server.preview_port in the rig file"
        ) from None
    return listener


def _serve(host: str, port: int, name: str) -> viser.ViserServer:
    """A viser server on exactly this port; viser itself would go on to the next free one and say so on stdout."""
    _listen(host, port).close()
    with _quiet_viser():
        server = viser.ViserServer(host=host, port=port, label=f"headstream · {name}", verbose=False)
    if port and server.get_port() != port:
        with _quiet_viser():
            server.stop()
        raise HeadstreamError(f"http://{host}:{port}: the port is in use; see server.preview_port in the rig file")
    return server

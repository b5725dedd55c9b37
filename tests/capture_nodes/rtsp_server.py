"""An RTSP server without a camera: GStreamer's. A process of its own, run by the system's Python.

    /usr/bin/python3 rtsp_server.py PORT PIPELINE

Needs ``apt-get install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good python3-gi``. PIPELINE ends in a payloader
of the name pay0. Prints "ready" when it listens.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402


def main() -> None:
    port, pipeline = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(pipeline)
    factory.set_shared(True)
    server.get_mount_points().add_factory("/camera", factory)
    if not server.attach(None):
        sys.exit(f"port {port} is in use")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()

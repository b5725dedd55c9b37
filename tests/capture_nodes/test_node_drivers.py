"""A node with cameras of several drivers at once, from their pictures to the server's end of the wire."""

import cv2
import numpy as np
from camera_doubles import HEIGHT, WIDTH, pylon_camera, video_file, viva_camera

from capture_nodes.node import Node
from protocol.rig import parse_rig


def test_cameras_of_three_drivers_reach_the_server(tmp_path, make_server, running):
    with pylon_camera(tmp_path) as basler, video_file(tmp_path, "mjpeg") as film, viva_camera() as (gige, _):
        entries = [
            {"id": name, "node": "pc1", "driver": source.driver, "options": source.options}
            | ({"serial": source.serial} if source.serial else {})
            for name, source in (("basler", basler), ("film", film), ("gige", gige))
        ]
        rig = parse_rig({"name": "test", "calibration": "c.json", "camera": entries}, root=tmp_path)
        server = make_server(rig)
        with running(Node(server.rig, "pc1")):
            server.until(lambda: {frame.header.camera for frame in server.frames} == {"basler", "film", "gige"}, 20)
            server.until(lambda: len(server.frames) > 30, 20)
    sizes = {"basler": (WIDTH, HEIGHT), "film": (WIDTH, HEIGHT), "gige": (64, 48)}
    for camera, size in sizes.items():
        headers = [frame.header for frame in server.frames if frame.header.camera == camera]
        assert {(header.width, header.height) for header in headers} == {size}
        triggers = [header.trigger for header in headers]
        assert triggers == sorted(set(triggers))
    for frame in server.frames:
        picture = cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape[1::-1] == sizes[frame.header.camera]

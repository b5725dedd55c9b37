"""A GigE Vision camera without hardware: Aravis' fake one, showing our pictures. A process of its own.

    python aravis_camera.py ADDRESS SERIAL PICTURES.npy

PICTURES: (N, H, W, 3) uint8 RGB; block ``b`` shows picture ``b % N``, from the top left corner of the sensor, as the
camera's pixel format wants it. Needs Debian's libaravis-0.8-0 (``apt-get install aravis-tools``); nothing of Python's.
Aravis is called through ctypes: the same callback through PyGObject crashes.
"""

from __future__ import annotations

import ctypes
import signal
import sys

import numpy as np

MONO8, RGB8, MONO16 = 0x01080001, 0x02180014, 0x01100007
BAYER8 = {0x01080008: "GRBG", 0x01080009: "RGGB", 0x0108000A: "GBRG", 0x0108000B: "BGGR"}


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """(H, W, 3) as a sensor with this pattern of colours sees it: (H, W)."""
    raw = np.empty(rgb.shape[:2], np.uint8)
    for i, colour in enumerate(pattern):
        raw[i // 2 :: 2, i % 2 :: 2] = rgb[i // 2 :: 2, i % 2 :: 2, "RGB".index(colour)]
    return raw


def as_sent(rgb: np.ndarray, pixel_format: int) -> np.ndarray:
    """RGB in the camera's pixel format, bytes in the order of the wire."""
    if pixel_format in BAYER8:
        return mosaic(rgb, BAYER8[pixel_format])
    if pixel_format == RGB8:
        return rgb
    return rgb[..., 1] if pixel_format == MONO8 else rgb[..., 1].astype("<u2") << 8


def main() -> None:
    address, serial, path = sys.argv[1:]
    pictures = np.load(path)
    library = ctypes.CDLL("libaravis-0.8.so.0")
    pointer, integer = ctypes.c_void_p, ctypes.c_uint32

    def function(name: str, result, *arguments):
        found = getattr(library, name)
        found.restype, found.argtypes = result, arguments
        return found

    get_data = function("arv_buffer_get_data", pointer, pointer, pointer)
    get_width = function("arv_buffer_get_image_width", ctypes.c_int, pointer)
    get_height = function("arv_buffer_get_image_height", ctypes.c_int, pointer)
    get_id = function("arv_buffer_get_frame_id", ctypes.c_uint64, pointer)
    fill_type = ctypes.CFUNCTYPE(None, pointer, pointer, integer, integer, integer)

    @fill_type
    def fill(buffer, _data, _exposure, _gain, pixel_format) -> None:
        start = get_data(buffer, None)  # as large as the picture in this format: the camera made room for it
        width, height = get_width(buffer), get_height(buffer)
        picture = pictures[get_id(buffer) % len(pictures)]
        sensor = np.zeros((height, width, 3), np.uint8)
        shown = picture[:height, :width]
        sensor[: shown.shape[0], : shown.shape[1]] = shown
        sent = np.ascontiguousarray(as_sent(sensor, pixel_format))
        ctypes.memmove(start, sent.ctypes.data, sent.nbytes)

    camera = function("arv_gv_fake_camera_new", pointer, ctypes.c_char_p, ctypes.c_char_p)(
        address.encode(), serial.encode()
    )
    if not function("arv_gv_fake_camera_is_running", ctypes.c_int, pointer)(camera):
        sys.exit(f"no fake camera at {address}: the address must be one of this machine's, its port 3956 free")
    fake = function("arv_gv_fake_camera_get_fake_camera", pointer, pointer)(camera)
    function("arv_fake_camera_set_fill_pattern", None, pointer, fill_type, pointer)(fake, fill, None)
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()

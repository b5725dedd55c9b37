"""A coloured mesh as the few bytes of glTF that a browser needs for it; built for every mesh of a live preview."""

from __future__ import annotations

import json
import struct

import numpy as np

from geometry.mesh import vertex_normals

_BYTE, _SHORT, _INT, _FLOAT = 5120, 5123, 5125, 5126  # glTF's names for int8, uint16, uint32, float32
_ARRAYS, _ELEMENTS = 34962, 34963


def coloured_glb(vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray) -> bytes:
    """Binary glTF 2.0. vertices: (P, 3) metres; faces: (F, 3); colours: (P, 3) linear light, 0 to 1.

    The material is unlit: the light of the day is in the colours already. Normals are coarse (a byte an axis).
    """
    count = len(vertices)
    points = np.ascontiguousarray(vertices, np.float32)
    normals = np.zeros((count, 4), np.int8)
    normals[:, :3] = np.round(127 * vertex_normals(np.asarray(vertices, np.float64), faces))
    paint = np.full((count, 4), 65535, np.uint16)
    paint[:, :3] = np.clip(colours, 0, 1) * 65535 + 0.5
    corners = np.ascontiguousarray(faces, np.uint16 if count <= 65535 else np.uint32)
    parts = [(points, 12, _ARRAYS), (normals, 4, _ARRAYS), (paint, 8, _ARRAYS), (corners, None, _ELEMENTS)]
    views, blob = [], b""
    for array, stride, target in parts:
        data = array.tobytes()
        view = {"buffer": 0, "byteOffset": len(blob), "byteLength": len(data), "target": target}
        views.append(view if stride is None else view | {"byteStride": stride})
        blob += data + bytes(-len(data) % 4)
    accessors = [
        {"componentType": _FLOAT, "type": "VEC3", "min": points.min(0).tolist(), "max": points.max(0).tolist()},
        {"componentType": _BYTE, "type": "VEC3", "normalized": True},
        {"componentType": _SHORT, "type": "VEC4", "normalized": True},
        {"componentType": _SHORT if corners.itemsize == 2 else _INT, "type": "SCALAR"},
    ]
    counts = (count, count, count, corners.size)
    scene = {
        "asset": {"version": "2.0"},
        "extensionsUsed": ["KHR_materials_unlit", "KHR_mesh_quantization"],
        "extensionsRequired": ["KHR_mesh_quantization"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "materials": [{"extensions": {"KHR_materials_unlit": {}}, "doubleSided": True}],
        "meshes": [
            {"primitives": [{"attributes": {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}, "indices": 3, "material": 0}]}
        ],
        "buffers": [{"byteLength": len(blob)}],
        "bufferViews": views,
        "accessors": [
            {"bufferView": n, "count": number, **accessor}
            for n, (accessor, number) in enumerate(zip(accessors, counts, strict=True))
        ],
    }
    text = json.dumps(scene, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(blob), b"BIN\0") + blob
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

"""Frozen values come back as they were, and bytes from elsewhere make nothing but plain values and our own classes."""

from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_server.framing import Window
from geometry.align import RigidMotion
from geometry.mesh import Mesh
from launch.freeze import FreezeError, freeze, thaw

ROOMS = ("fusion_server.", "geometry.", "protocol.")


def back(value):
    return thaw(freeze(value, ROOMS), ROOMS)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -5,
        2**63,
        0.1,
        float("inf"),
        "text",
        b"bytes",
        [],
        (1, (2, [3])),
        {"a": 1, 2: (3,)},
        {1, 2},
        [[]] * 3,
    ],
    ids=repr,
)
def test_plain_values_come_back(value):
    got = back(value)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int32).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(20.0)[::3],
        np.zeros((0, 3), np.float32),
        np.array(5.0),
        np.array([True, False]),
        np.arange(3, dtype=">u2"),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_come_back_with_their_order(array):
    got = back(array)
    assert got.dtype == array.dtype and got.shape == array.shape and np.array_equal(got, array)
    assert got.flags.writeable and (got.flags.f_contiguous == array.flags.f_contiguous or got.ndim < 2)
    assert type(back(np.float32(0.1))) is np.float32 and back(np.float32(0.1)) == np.float32(0.1)


def test_our_classes_come_back_and_what_is_shared_is_shared():
    faces = np.array([[0, 1, 2]], np.int32)
    one = Mesh(np.zeros((3, 3)), faces)
    got = back({"window": Window(1.0, 2.0, 3.0), "meshes": [one, Mesh(np.ones((3, 3)), faces)], "again": one})
    assert got["window"] == Window(1.0, 2.0, 3.0) and isinstance(got["meshes"][0], Mesh)
    assert got["meshes"][0] is got["again"] and got["meshes"][0].faces is got["meshes"][1].faces
    assert np.array_equal(got["meshes"][1].faces, faces)


@dataclass
class Ours:
    """Of this test, and so of no room."""


@pytest.mark.parametrize(
    "value",
    [
        RigidMotion(np.eye(3), np.zeros(3), np.zeros(3)),
        Ours(),
        SimpleNamespace(a=1),
        OrderedDict(a=1),
        len,
        np.array([None]),
        object,
    ],
)
def test_what_cannot_come_back_is_not_frozen(value):
    with pytest.raises(FreezeError, match="cannot be frozen"):
        freeze([value], ROOMS)


def test_a_value_that_contains_itself_is_not_frozen():
    value = []
    value.append(value)
    with pytest.raises(FreezeError, match="contains itself"):
        freeze(value, ROOMS)


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [["plain", [1]]],
        [["object", "os", "system", 0]],
        [["dict"], ["object", "os", "getpid", 0]],
        [["dict"], ["object", "fusion_server.decode", "os.getpid", 0]],
        [["dict"], ["object", "fusion_server.decode", "Path", 0]],
        [["dict"], ["object", "fusion_server.decode", "log", 0]],
        [["dict"], ["object", "fusion_server.no_such_module", "X", 0]],
        [["list", 0]],
        [["list", 1], ["plain", 1]],
        [["list", -1]],
        [["array", "|O", [1], "C", bytes(8)]],
        [["array", "<f8", [2], "C", bytes(8)]],
        [["array", "<f8", [1, 2**62], "C", bytes(8)]],
        [["number", "<f8", b""]],
        [["list"], ["dict", [0, 0]]],
    ],
    ids=str,
)
def test_forged_nodes_make_nothing(nodes):
    with pytest.raises(FreezeError):
        thaw(msgpack.packb(nodes), ROOMS)


def test_no_class_is_called():
    """A window that its own constructor would refuse or change is made as it was written, by setting attributes."""
    called = []
    before = Window.__init__
    Window.__init__ = lambda self, *rest: called.append(rest)
    try:
        thaw(msgpack.packb([["dict"], ["object", "fusion_server.framing", "Window", 0]]), ROOMS)
    finally:
        Window.__init__ = before
    assert not called


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 8))
def test_any_bytes_are_a_value_or_a_freeze_error(junk, at, over):
    whole = freeze({"window": Window(1.0, 2.0, 3.0), "array": np.arange(5.0), "more": (1, [2, "x"])}, ROOMS)
    try:
        thaw(whole[:at] + junk + whole[at + over :], ROOMS)
    except FreezeError as error:
        assert "\n" not in str(error)

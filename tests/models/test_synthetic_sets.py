"""What is written to disk: training sets and the baked capture."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from geometry.cameras import project
from geometry.mesh import read_ply
from models.synthetic.bake import BakeSettings, bake_capture, ring
from models.synthetic.training_sets import make_set, write_sets
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError

TINY = dict(seconds=0.1, fps=30.0, cameras=3, size=64, seed=11, maps_every=2, workers=1)


def test_a_set_has_the_agreed_arrays_and_repeats_itself():
    one, again, other = make_set(3, 1, 2, 64), make_set(3, 1, 2, 64), make_set(3, 2, 2, 64)
    assert {key: (value.dtype.name, value.shape) for key, value in one.items()} == {
        "image": ("uint8", (2, 64, 64, 3)),
        "normal": ("int8", (2, 64, 64, 3)),
        "mask": ("uint8", (2, 64, 64)),
        "depth": ("float16", (2, 64, 64)),
        "K": ("float32", (2, 3, 3)),
        "R": ("float32", (2, 3, 3)),
        "t": ("float32", (2, 3)),
    }
    assert all((one[key] == again[key]).all() for key in one)
    assert (one["image"] != other["image"]).mean() > 0.3


def test_many_sets_are_sane():
    empty = 0
    for index in range(12):
        made = make_set(8, index, 2, 48)
        mask = made["mask"] > 0
        if not mask.any():  # some sets show an empty rig
            empty += 1
            continue
        assert 0.05 < mask.mean() < 0.98
        normal = made["normal"].astype(float) / 127
        assert np.allclose(np.linalg.norm(normal[mask], axis=1), 1, atol=0.02)
        assert (normal[~mask] == 0).all()
        assert (normal[mask][:, 2] < 0.35).mean() > 0.98  # they face the camera
        assert np.allclose(np.linalg.det(made["R"]), 1, atol=1e-5)
        assert 5 < made["image"][mask].mean() < 250
    assert empty <= 2


def test_writing_goes_on_where_it_stopped(tmp_path):
    assert list(write_sets(tmp_path, 2, 4, 1, 2, 32)) == [0, 1]
    first = (tmp_path / "000000.npz").read_bytes()
    (tmp_path / "000001.npz").unlink()
    assert list(write_sets(tmp_path, 3, 4, 1, 2, 32)) == [1, 2]
    assert (tmp_path / "000000.npz").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.npz", "000001.npz", "000002.npz"]


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    seen = []
    out = bake_capture(tmp_path_factory.mktemp("bake") / "tiny", **TINY, progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    return out


def test_a_bake_is_a_capture_with_its_truth(capture):
    folder = CaptureFolder.open(capture)
    assert folder.frames == ("000000", "000001", "000002")
    assert folder.fps == 30.0
    assert folder.info["loop"] is True
    assert folder.calibration.select("ring").names == ("cam0", "cam1", "cam2")
    camera = folder.calibration["cam0"]
    mask = cv2.imread(str(folder.mask("000000", "cam0")), cv2.IMREAD_UNCHANGED) > 0
    picture = cv2.imread(str(folder.jpeg("000000", "cam0")))
    assert picture.shape == (64, 64, 3)
    depth = np.load(folder.depth("000000", "cam0"))["depth"]
    normal = np.load(folder.normal("000000", "cam0"))["normal"].astype(np.float32)
    assert ((depth > 0) == mask).all()
    assert np.allclose(np.linalg.norm(normal[mask], axis=1), 1, atol=2e-3)
    assert not folder.normal("000001", "cam0").exists()

    mesh = read_ply(folder.mesh("000000"))
    pixels, far = project(camera, mesh.vertices)
    inside = ((pixels > 0) & (pixels < 63)).all(1)
    column, row = np.rint(pixels[inside]).astype(int).T
    beside = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # a pixel shows what is at its middle
    assert beside[row, column].mean() > 0.999
    front = far[inside] < depth[row, column] + 0.002
    assert front.mean() > 0.3
    assert np.median(np.abs(far[inside] - depth[row, column])[front]) < 0.002


def test_a_finished_bake_is_not_made_again_and_another_is_refused(capture):
    before = {path: path.stat().st_mtime_ns for path in capture.rglob("*")}
    assert bake_capture(capture, **TINY) == capture
    assert before == {path: path.stat().st_mtime_ns for path in capture.rglob("*")}
    with pytest.raises(HeadstreamError, match="something other than this bake"):
        bake_capture(capture, **{**TINY, "seed": 12})


def test_a_bake_from_before_there_were_performances_is_the_first_of_them(capture):
    path = capture / "capture.json"
    text = path.read_text()
    info = json.loads(text)
    assert info["bake"].pop("performance") == "talk"
    path.write_text(json.dumps(info))
    before = (capture / "frames" / "000000" / "cam0.jpg").stat().st_mtime_ns
    assert bake_capture(capture, **TINY) == capture
    assert (capture / "frames" / "000000" / "cam0.jpg").stat().st_mtime_ns == before
    with pytest.raises(HeadstreamError, match="something other than this bake"):
        bake_capture(capture, **TINY, performance="nod")
    path.write_text(text)


def test_a_bake_of_an_older_version_is_replaced(tmp_path):
    out = tmp_path / "old"
    (out / "frames" / "000099").mkdir(parents=True)
    (out / "capture.json").write_text('{"bake": {"version": 0}}')
    bake_capture(out, **TINY)
    assert CaptureFolder.open(out).frames == ("000000", "000001", "000002")


def test_an_interrupted_bake_keeps_its_whole_frames(capture, tmp_path):
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Stop

    out = tmp_path / "cut"
    with pytest.raises(Stop):
        bake_capture(out, **TINY, progress=stop)
    assert not out.exists()
    kept = tmp_path / "cut.part" / "frames" / "000000" / "cam0.jpg"
    before = kept.stat().st_mtime_ns
    bake_capture(out, **TINY)
    assert (out / "frames" / "000000" / "cam0.jpg").stat().st_mtime_ns == before
    for name in ("frames/000001/cam1.jpg", "frames/000002/cam2_mask.png", "mesh/000002.ply"):
        assert (out / name).read_bytes() == (capture / name).read_bytes()
    assert not (tmp_path / "cut.part").exists()


def test_values_that_cannot_be_baked_are_refused(tmp_path):
    with pytest.raises(HeadstreamError, match="0 cameras"):
        bake_capture(tmp_path / "none", cameras=0)
    with pytest.raises(HeadstreamError, match="'sing'; must be one of talk, nod, shout"):
        bake_capture(tmp_path / "none", performance="sing")


def test_the_ring_looks_at_the_head_from_all_around():
    cameras = ring(BakeSettings())
    places = np.array([camera.center for camera in cameras])
    assert places[0, 2] > 0.9
    assert places[4, 2] < -0.8
    assert np.ptp(np.degrees(np.arctan2(places[:, 1], np.hypot(places[:, 0], places[:, 2])))) > 15
    for camera in cameras:
        pixels, _ = project(camera, np.zeros((1, 3)))
        assert np.abs(pixels - 255.5).max() < 40

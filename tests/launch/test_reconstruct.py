"""`reconstruct` as a job: interrupted anywhere it ends with the same files; which frames; smoothing in time.

The surface is a stand-in whose every mesh depends on all before it, as a tracked one does; the real one is in
tests/test_chain.py.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import msgpack
import numpy as np
import pytest

import launch.reconstruct as module
from fusion_server.framing import Window
from fusion_server.surface import Quality, SurfaceFrame
from geometry.mesh import read_ply
from launch.checkpoint import FOLDER, Checkpoint
from launch.reconstruct import Job, chosen_frames, final, reconstruct
from protocol.calibration import Calibration, Camera, save_calibration
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError
from protocol.rig import NormalsConfig, SurfaceConfig

FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
UV = np.linspace(0, 1, 24).reshape(4, 3, 2)
CORNERS = np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1]])
COUNT = 6


class Killed(BaseException):
    """What nobody catches."""


class Drifting:
    """Vertices go on from the last ones, by what the picture shows."""

    made = 0
    sight = SimpleNamespace(room=None)

    def __init__(self, *asked):
        Drifting.made += 1
        Drifting.asked = asked
        self._state = ({}, None, None)

    def reconstruct(self, images):
        level = float(np.mean([image.mean() for image in images.values()]))
        if level < 2:
            raise HeadstreamError("nothing to see")
        before = CORNERS if self._state[1] is None else self._state[1]
        vertices = before * 0.99 + 1e-6 * level
        self._state = ({"a": Window(1.0, 2.0, level)}, vertices, None)
        quality = Quality(0.9, 5.0, 0, 0.8)
        uv = UV if Drifting.asked[-1] else None
        frame = SurfaceFrame(vertices, FACES, uv, vertices, "warm", quality, {"solve": 0.1}, 2)
        return SimpleNamespace(seconds={"normals": 0.1}), frame

    def keep_topology(self, keeps):
        Drifting.kept = keeps

    def state(self):
        return self._state

    def restore(self, state):
        self._state = state


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(module, "make_reconstructor", Drifting)
    Drifting.made = 0


@pytest.fixture
def job(tmp_path) -> Job:
    K = np.array([[20.0, 0, 8], [0, 20, 8], [0, 0, 1]])
    cameras = tuple(Camera(n, 16, 16, K, np.zeros(5), np.eye(3), np.array([0, 0, 1.0])) for n in "ab")
    root = tmp_path / "capture"
    for i in range(COUNT):
        folder = root / "frames" / f"{i:03d}"
        folder.mkdir(parents=True)
        for n, camera in enumerate(cameras):
            picture = np.full((16, 16, 3), 0 if i == 3 else 40 + 17 * i + 5 * n, np.uint8)  # frame 3 is dark
            (folder / f"{camera.name}.jpg").write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
    save_calibration(Calibration(cameras), root / "cameras.json")
    capture = CaptureFolder.open(root)
    return Job(
        capture, capture.calibration, tmp_path / "whole", capture.frames, False, NormalsConfig(), SurfaceConfig()
    )


def files(out: Path) -> dict[str, bytes]:
    """Every file but the report, whose seconds differ."""
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.*") if path.name != "report.json"}


def run(job: Job) -> list[tuple[int, int, str]]:
    calls = []
    reconstruct(job, lambda *call: calls.append(call))
    return calls


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_write_it_goes_on_and_ends_the_same(job, monkeypatch, tmp_path, final, after):
    job = replace(job, final=final, uv=final)
    run(job)
    whole = files(job.out)
    assert set(whole) == {f"mesh/{i:03d}.ply" for i in range(COUNT) if i != 3}
    for name in whole:
        textured = read_ply(job.out / name).corner_uv
        assert (textured is None) if not final else np.allclose(textured, UV), name
    rename = Path.replace
    left = 0

    def dying(self, target):
        nonlocal left
        left -= 1
        if left == 0 and not after:
            raise Killed
        rename(self, target)
        if left == 0:
            raise Killed

    monkeypatch.setattr(Path, "replace", dying)
    moments = 0
    for moment in range(1, 100):
        out = tmp_path / f"{moment}"
        left = moment
        try:
            run(replace(job, out=out))
        except Killed:
            moments += 1
        else:
            break  # it was done before this many writes
        left = 0
        run(replace(job, out=out))
        assert files(out) == whole, moment
        report = json.loads((out / "report.json").read_text())
        assert [entry["frame"] for entry in report["frames"]] == list(job.frames)
        assert [("fault" in entry) for entry in report["frames"]] == [i == 3 for i in range(COUNT)]
    assert moments >= (2 + COUNT + 5 if not final else 2 + COUNT + 5 + 5 + 1 + 5)


def interrupted(job: Job, monkeypatch, beyond: float) -> None:
    """Run a job until a frame whose window has come to be wider than this."""

    class Dying(Drifting):
        def reconstruct(self, images):
            if self._state[1] is not None and self._state[0]["a"].side > beyond:
                raise KeyboardInterrupt
            return super().reconstruct(images)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "make_reconstructor", Dying)
        run(job)


def test_meshes_of_one_result_share_a_topology(job):
    run(job)
    assert Drifting.kept is True


def test_what_is_done_is_not_done_again(job, monkeypatch):
    interrupted(job, monkeypatch, beyond=90)
    calls = run(job)
    assert calls[0][:2] == (5, COUNT) and "going on after 5 of 6" in calls[0][2]
    assert [call[0] for call in calls[1:]] == [6]
    assert not (job.out / FOLDER).exists(), "nothing is left of an interruption"


def test_another_job_begins_anew(job, monkeypatch):
    interrupted(job, monkeypatch, beyond=0)
    assert run(replace(job, frames=job.frames[:2]))[0][:2] == (1, 2)
    interrupted(job, monkeypatch, beyond=0)
    assert run(replace(job, surface=SurfaceConfig(iterations=3)))[0][:2] == (1, COUNT)


def test_a_damaged_state_does_not_count(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"a": 1})
    checkpoint.frame({"frame": "000"}, ({"a": Window(1.0, 2.0, 3.0)}, CORNERS, None))
    kept = {path.name: path.read_bytes() for path in (tmp_path / FOLDER).iterdir()}
    whole = kept["state"]
    for position in range(0, len(whole), 5):
        damaged = bytes([*whole[:position], whole[position] ^ 1, *whole[position + 1 :]])
        for name, data in {**kept, "state": damaged}.items():
            (tmp_path / FOLDER / name).write_bytes(data)
        assert Checkpoint(tmp_path, {"a": 1}).done == 0
    for name, data in kept.items():
        (tmp_path / FOLDER / name).write_bytes(data)
    again = Checkpoint(tmp_path, {"a": 1})
    assert again.done == 1 and np.array_equal(again.state[1], CORNERS)


def test_half_an_entry_does_not_count(job, tmp_path):
    checkpoint = Checkpoint(tmp_path, {"a": 1})
    checkpoint.frame({"frame": "000"}, None)
    with (tmp_path / FOLDER / "entries.jsonl").open("ab") as file:
        file.write(b'{"frame": "0')
    again = Checkpoint(tmp_path, {"a": 1})
    assert again.done == 1
    again.frame({"frame": "001"}, None)
    assert [entry["frame"] for entry in Checkpoint(tmp_path, {"a": 1}).entries] == ["000", "001"]


def test_a_state_of_another_version_begins_anew(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"a": 1})
    checkpoint.frame({"frame": "000"}, None)
    for node in (["object", "os", "getpid", 0], ["object", "fusion_server.framing", "Gone", 0], ["plain", 7]):
        data = msgpack.packb([["dict"], node])
        (tmp_path / FOLDER / "state").write_bytes(zlib.crc32(data).to_bytes(4, "little") + data)
        assert Checkpoint(tmp_path, {"a": 1}).done == 0


def test_a_final_job_is_smoother_where_the_path_is_noise(job):
    """Levels that zigzag from frame to frame; the smooth paths zigzag less and end where the rough ones do."""
    for i, frame in enumerate(job.frames):
        for name in "ab":
            picture = np.full((16, 16, 3), 100 + 40 * (i % 2), np.uint8)
            job.capture.jpeg(frame, name).write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
    run(job)
    smooth = replace(job, out=job.out.parent / "smooth", final=True)
    calls = run(smooth)
    assert [call[:2] for call in calls] == [(n, 2 * COUNT) for n in range(1, 2 * COUNT + 1)]
    rough, fine = (
        np.stack([read_ply(out / "mesh" / f"{frame}.ply").vertices for frame in job.frames])
        for out in (job.out, smooth.out)
    )
    shake = [np.abs(np.diff(path, 2, axis=0))[:, 0].mean() for path in (rough, fine)]
    assert shake[1] < 0.5 * shake[0]
    assert np.abs(fine - rough).max() < 1e-4
    assert json.loads((smooth.out / "report.json").read_text())["smoothed"] is True


def test_final_is_as_dense_as_pictures_allow_unless_told_how_dense(job):
    better = final(job)
    assert better.final and better.surface.vertices == 0
    assert final(job, 7000).surface.vertices == 7000 and final(job, 7000).final


def test_final_is_made_another_way(job):
    """What the reconstructor is told: not only how many vertices."""
    for wanted in (job, final(replace(job, out=job.out.parent / "final", uv=True))):
        run(wanted)
        assert Drifting.asked == (wanted.calibration, wanted.normals, wanted.surface, wanted.final, wanted.uv)
    assert wanted.final and wanted.uv


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, "10 11 12 20"),
        ("2", "10 11"),
        ("11:20", "11 12"),
        ("12:", "12 20"),
        (":12", "10 11"),
        ("99", "10 11 12 20"),
    ],
)
def test_frames_are_chosen_by_their_numbers(text, wanted):
    frames = ("0010", "0011", "0012", "0020")
    assert [str(int(frame)) for frame in chosen_frames(frames, text)] == wanted.split()


@pytest.mark.parametrize("text", ["", "a", "-3", "1:2:3", "0", "13:20", "21:"])
def test_frames_that_are_none_are_refused(text):
    with pytest.raises(HeadstreamError, match="--frames"):
        chosen_frames(("0010", "0011", "0012", "0020"), text)

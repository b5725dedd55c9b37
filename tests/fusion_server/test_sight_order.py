"""Who waits for whom on a GPU: followed on paper, as no test can see a race. The streams' work itself is the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
from paper_gpu import PaperGpu
from test_sight import BrightEngine, camera, jpeg, noise

from fusion_server.decode import make_decoder
from fusion_server.framing import Window
from fusion_server.sight.device import DeviceSight
from geometry.device import Lane, Library
from geometry.device import lane as lane_module
from protocol.calibration import Calibration

SETS, NAMES = 5, ("a", "b")


@pytest.fixture
def run(monkeypatch):
    """Five sets through decoder, sight and a surface's lane, which looks at each set's mask."""
    gpu = PaperGpu(monkeypatch)
    call, predict = Library.__call__, BrightEngine.predict_on_device
    monkeypatch.setattr(Library, "__call__", lambda lib, name, *a: (gpu.work(name), call(lib, name, *a))[1])
    monkeypatch.setattr(
        BrightEngine, "predict_on_device", lambda engine, *a: (gpu.work("predict"), predict(engine, *a))[1]
    )
    cameras = [camera(name, [0.1, 0, 0, 0, 0]) for name in NAMES]
    calibration = Calibration(tuple(cameras), {}, {})
    sight = DeviceSight(calibration, BrightEngine(2, "cpu"))
    decoder, surface, hasty = make_decoder("turbojpeg", 1, sight), Lane(sight.device), Lane(sight.device)
    windows = {name: Window(40, 20, 200) for name in NAMES}
    steps = []
    for n in range(SETS):
        jpegs = {name: jpeg(image) for name, image in noise(cameras, n).items()}
        images, _ = decoder.decode(jpegs, calibration)
        known = gpu.host_knows
        first = len(gpu.before)
        taken = sight.take(images)
        uploads = list(gpu.before)[first:]
        first = len(gpu.before)
        seen = sight.look(taken, windows)
        looked = gpu.host_knows
        # The maps, both pictures and the checksums, into the hand-over's buffer; before them the network's own inputs.
        copies = [work for work in list(gpu.before)[first:] if work.startswith("copy")][-6:]
        steps.append({"decoded knowing": known, "looked knowing": looked, "uploads": uploads, "copies": copies})
        steps[n]["seen"] = seen
        with hasty.entered():
            seen.handed.on(hasty)
            steps[n]["glance"] = gpu.work("glance")
        if n:  # the surface is a set behind
            handed = steps[n - 1]["seen"].handed
            with surface.entered():
                handed.on(surface)
                steps[n - 1]["solve"] = gpu.work("solve")
            first = len(gpu.before)
            handed.host("mask")
            (steps[n - 1]["fetch"],) = list(gpu.before)[first:]
    yield gpu, steps
    lane_module._between.cache_clear()


def test_a_set_goes_through_its_stages_in_order(run):
    gpu, steps = run
    for n, step in enumerate(steps):
        assert len(step["uploads"]) == 2
        assert set(step["uploads"]) <= gpu.before[f"cut_windows {n}"]
        assert f"cut_windows {n}" in gpu.before[f"shrink_windows {n}"]
        assert f"shrink_windows {n}" in gpu.before[f"predict {n}"]
        assert len(step["copies"]) == 6
        assert all(f"predict {n}" in gpu.before[copy] for copy in step["copies"])
        for reader in ("glance", "solve", "fetch"):
            if reader in step:
                assert set(step["copies"]) <= gpu.before[step[reader]]
        if n:
            assert set(steps[n - 1]["copies"]) <= gpu.before[f"predict {n}"]  # which overwrites what they read
            assert set(steps[n - 1]["copies"]) <= step["looked knowing"]  # one set is in the lane at a time
        assert not set(step["copies"]) <= step["looked knowing"]  # and for its own the host does not wait


def test_pictures_are_overwritten_only_when_nobody_reads_them(run):
    gpu, steps = run
    for n in range(2, SETS):  # two turns
        assert set(steps[n - 2]["uploads"]) | {f"cut_windows {n - 2}"} <= steps[n]["decoded knowing"]
        for upload in steps[n]["uploads"]:
            assert f"cut_windows {n - 2}" in gpu.before[upload]


def test_a_set_is_decoded_and_uploaded_while_the_last_one_s_network_runs(run):
    gpu, steps = run
    for n in range(1, SETS):
        assert f"predict {n - 1}" not in steps[n]["decoded knowing"]
        for upload in steps[n]["uploads"]:
            assert f"predict {n - 1}" not in gpu.before[upload]


def test_one_set_at_most_is_in_the_network_so_that_nothing_queues(run):
    gpu, steps = run
    for n in range(1, SETS):
        assert set(steps[n - 1]["copies"]) <= gpu.before[f"cut_windows {n}"]


def test_the_surface_waits_for_its_own_set_and_not_for_the_next(run):
    gpu, steps = run
    for n in range(SETS - 1):
        for reader in ("solve", "fetch"):
            assert f"predict {n}" in gpu.before[steps[n][reader]]
            assert f"predict {n + 1}" not in gpu.before[steps[n][reader]]


def test_every_stage_has_a_stream_of_its_own(run):
    gpu, steps = run
    streams = [
        gpu.streams[work] for work in (steps[0]["uploads"][0], "predict 0", steps[0]["solve"], steps[0]["fetch"])
    ]
    assert len(set(streams)) == 4
    assert gpu.streams["cut_windows 3"] == gpu.streams["predict 1"]


def test_times_are_those_of_events(run):
    _, steps = run
    assert steps[0]["seen"].seconds() == pytest.approx(
        {"upload": 1e-3, "cut": 1e-3, "normals": 1e-3, "hand_over": 1e-3}
    )
    assert np.isfinite(steps[0]["seen"].prediction.mask).all()

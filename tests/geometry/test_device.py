"""How kernels are compiled, kept and called; the emulation's own promises."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from shapes import camera, octahedron_sphere, torus

from geometry.device import Library, Resident, compute_device
from geometry.device.build import build, compiler
from geometry.rasterize.cuda import CudaRasterizer
from protocol.errors import HeadstreamError

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for room in ("geometry", "fusion_server") for path in (ROOT / room).rglob("*.cu"))
SUM = """#include "kernel.h"
extern "C" int total(const double* x, int64_t count, double* out, void* stream) {
    return launch_blocks(1, stream, EACH_BLOCK (int64_t, double* shared) {
        PHASE (t) {
            shared[t] = 0.0;
            for (int64_t i = t; i < count; i += THREADS) shared[t] += x[i];
        }
        double sum = block_sum(shared);
        PHASE (t) { if (t == 0) *out = sum; }
    });
}
"""
needs_cxx = pytest.mark.skipif(compiler(cuda=False) is None, reason="no C++ compiler for the emulation")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("geometry.device.build.user_cache_path", lambda _: tmp_path / "cache")
    return tmp_path / "cache" / "kernels"


def source(tmp_path, text=SUM):
    path = tmp_path / "sum.cu"
    path.write_text(text)
    return path


@needs_cxx
def test_a_source_is_compiled_once_and_again_when_it_changes(tmp_path, cache):
    first = build(source(tmp_path))
    made = first.stat().st_mtime_ns
    assert build(source(tmp_path)) == first and first.stat().st_mtime_ns == made
    assert build(source(tmp_path, SUM + "\n")) != first
    (tmp_path / "view.h").write_text("// what several sources share\n")
    beside = build(source(tmp_path))
    assert beside != first
    (tmp_path / "view.h").unlink()
    beside.unlink()
    assert sorted(cache.iterdir()) == sorted([first, build(source(tmp_path, SUM + "\n"))])  # nothing half made is left


@needs_cxx
def test_a_block_sums_what_its_threads_found(tmp_path, cache):
    library = Library(source(tmp_path), compute_device("cpu"))
    x = np.random.default_rng(0).normal(size=1000)
    out = library.zeros((1,), torch.float64)
    library("total", library.up(x), 1000, out)
    assert float(out) == pytest.approx(x.sum(), abs=1e-12)


@needs_cxx
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_launches_wait_on_a_flag_and_no_longer_than_they_are_told_to(tmp_path, cache, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    library = Library(source(tmp_path), compute_device(device))
    x, out, flag = library.up(np.ones(300)), library.zeros((1,), torch.float64), library.zeros((1,), torch.int32)
    library("total", x, 300, out, when=flag)
    assert float(out) == 0
    launches, at_work = library.launched
    assert launches > 0 and at_work == 0
    library("total", x, 300, out)
    assert float(out) == 300
    assert library.launched == (2 * launches, launches if device == "cpu" else 0)
    out.zero_()
    library("total", x, 200, out, when=flag.fill_(1))
    assert float(out) == 200


@needs_cxx
def test_a_source_that_does_not_compile_is_said_with_the_compiler_s_words(tmp_path, cache):
    with pytest.raises(HeadstreamError, match=r"(?s)sum.cu: .* refuses it: .*wrong_name"):
        build(source(tmp_path, SUM.replace("shared[t] = 0.0", "wrong_name = 0.0")))
    assert not list(cache.iterdir())


@pytest.mark.parametrize(("architecture", "named"), [("", "CXX"), ("sm_90", "NVCC")])
def test_a_compiler_that_is_missing_is_named(tmp_path, cache, monkeypatch, architecture, named):
    monkeypatch.setattr("geometry.device.build.shutil.which", lambda _: None)
    with pytest.raises(HeadstreamError, match=named):
        build(source(tmp_path), architecture)


@needs_cxx
def test_a_damaged_library_is_said_with_what_to_do(tmp_path, cache):
    path = build(source(tmp_path))
    path.unlink()
    path.write_bytes(b"cut off")
    with pytest.raises(HeadstreamError, match="delete it"):
        Library(source(tmp_path), compute_device("cpu"))


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:one"])
def test_a_device_that_is_none_is_refused(name):
    with pytest.raises(HeadstreamError, match="must be 'cuda'"):
        compute_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said():
    with pytest.raises(HeadstreamError, match=r"'cuda': torch .* sees no CUDA GPU"):
        CudaRasterizer()


def test_what_belongs_to_an_object_is_made_once_and_goes_with_it():
    class Owner:
        pass

    resident, made = Resident(), []
    first, second = Owner(), Owner()
    for owner in (first, first, second):
        resident.of(owner, lambda: made.append(1) or len(made))
    assert len(made) == 2
    del first, owner
    assert len(resident._held) == 1


@needs_cxx
def test_what_is_drawn_does_not_depend_on_which_thread_came_first():
    rasterizer = CudaRasterizer("cpu")
    mesh = torus(40, 20)
    ball = octahedron_sphere(1, 1.0)  # coarse, so that blocks draw it, and it crosses the torus
    vertices = np.vstack([mesh.vertices, ball.vertices])
    faces = np.vstack([mesh.faces, ball.faces + len(mesh.vertices)])
    cameras = [camera((0.4, 1.0, 3.0), 96), camera((-3.0, 0.2, -0.5), 96)]
    rasters = []
    for order in (0, 1, 2):
        rasterizer._library.emulate_order(order)
        rasters.append(rasterizer.rasterize(vertices, faces, cameras))
    rasterizer._library.emulate_order(0)
    for other in rasters[1:]:
        np.testing.assert_array_equal(other.face, rasters[0].face)
        np.testing.assert_array_equal(other.bary, rasters[0].bary)


@pytest.mark.slow
@pytest.mark.skipif(compiler(cuda=True) is None, reason="no nvcc")
@pytest.mark.parametrize("path", SOURCES, ids=[path.stem for path in SOURCES])
def test_every_source_compiles_for_gpus(path, cache):
    """nvcc needs no GPU; what comes out is loaded as far as its exported names."""
    for architecture in ("sm_80", "sm_90"):
        names = subprocess.run(
            ["nm", "-D", "--defined-only", build(path, architecture)], capture_output=True, text=True
        )
        assert " T what_failed" in names.stdout

"""Compiles a kernel source into a shared library: nvcc for a GPU, a C++ compiler for the emulation on the CPU.

No headers of torch are needed, so a library takes seconds on a bare machine. It is kept in the user's cache under a
name that holds a hash of the source, ``kernel.h``, the headers beside the source, the command and the compiler's
version.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import time
from functools import lru_cache
from pathlib import Path

from platformdirs import user_cache_path

from protocol.errors import HeadstreamError

log = logging.getLogger(__name__)

_HEADER = Path(__file__).with_name("kernel.h")
_PATIENCE = 300.0  # seconds that a compiler may take
# Without contraction into fused multiply-adds, sums of products are rounded as the CPU's twin rounds them.
_NVCC = ("-std=c++17", "--extended-lambda", "-O3", "-fmad=false", "-shared", "-Xcompiler", "-fPIC")
_CXX = ("-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-pthread", "-x", "c++")


def compiler(cuda: bool) -> str | None:
    """Path of nvcc, or of a C++ compiler; None where there is none. ``NVCC`` and ``CXX`` name others."""
    if cuda:
        return shutil.which(os.environ.get("NVCC", "nvcc")) or shutil.which("/usr/local/cuda/bin/nvcc")
    return next(
        (found for name in (os.environ.get("CXX", ""), "g++", "clang++") if name and (found := shutil.which(name))),
        None,
    )


def build(source: Path, architecture: str = "") -> Path:
    """The library of a source; architecture: of the GPU ("sm_90"), empty for the emulation.

    Raises HeadstreamError when the compiler is missing or refuses the source.
    """
    cuda = bool(architecture)
    program = compiler(cuda)
    if program is None:
        missing = (
            "nvcc (of the CUDA toolkit; NVCC names another)" if cuda else "a C++ compiler (g++; CXX names another)"
        )
        raise HeadstreamError(f"{source.name}: {missing} is not found, and this part is compiled on first use")
    command = [program, *((f"-arch={architecture}", *_NVCC) if cuda else _CXX), f"-I{_HEADER.parent}"]
    digest = hashlib.sha256()
    read = (source, _HEADER, *sorted(source.parent.glob("*.h")))
    for part in (*(path.read_bytes() for path in read), "\0".join(command).encode(), _version(program).encode()):
        digest.update(hashlib.sha256(part).digest())
    kind = architecture or "emulated"
    library = user_cache_path("headstream") / "kernels" / f"{source.stem}-{kind}-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        _compile(command, source, library)
    return library


def _compile(command: list[str], source: Path, library: Path) -> None:
    """Beside its place first: another process may be doing the same."""
    start = time.perf_counter()
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        try:
            done = subprocess.run(
                [*command, str(source), "-o", str(made)], capture_output=True, text=True, timeout=_PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            raise HeadstreamError(f"{source.name}: {command[0]} did not finish in {_PATIENCE:.0f} s") from None
        if done.returncode:
            said = (done.stderr + done.stdout).strip()
            raise HeadstreamError(f"{source.name}: {command[0]} refuses it: {said[:2000] or done.returncode}")
        os.replace(made, library)
    log.info("%s: compiled in %.1f s", library.name, time.perf_counter() - start)


@lru_cache
def _version(program: str) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout

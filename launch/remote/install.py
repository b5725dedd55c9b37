"""Headstream itself onto a camera PC: this checkout's wheel, and of its dependencies only those that a node needs.

A node needs neither torch nor OpenVINO, gigabytes less than the server. Versions are those of ``constraints.txt``.
Where the PCs have no way to a package index, ``wheels`` is a folder of wheels to take along (``pip wheel`` makes it).
"""

from __future__ import annotations

import importlib.metadata
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from launch.doctor_node import NODE_NEEDS
from launch.remote.ssh import Pc, RemoteError
from protocol.rig import Rig

DRIVER_EXTRAS = {"gige": "gige", "pylon": "pylon", "opencv": "video"}  # driver: the extra that brings its library
ROOMS = ("protocol", "geometry", "capture_nodes", "models", "fusion_server", "launch")
_INSTALL_S = 1800.0


@dataclass(frozen=True)
class Package:
    """This checkout, ready to be installed elsewhere."""

    wheel: Path
    constraints: Path
    wheels: Path | None


def build(into: Path, wheels: Path | None = None) -> Package:
    """Build the wheel of the checkout that this runs from. Raises RemoteError."""
    root = _checkout()
    source = into / "source"  # a copy: setuptools leaves its work beside the source, and takes up old work into a wheel
    for room in ROOMS:
        shutil.copytree(root / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(into), str(source)]
    if _has_setuptools():  # else pip fetches one, for which it needs a package index
        command.insert(-1, "--no-build-isolation")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(into.glob("headstream-*.whl"))
    if done.returncode or len(found) != 1:
        raise RemoteError(f"headstream's wheel cannot be built here: {_pips_reason(done.stderr) or 'pip made none'}")
    return Package(found[0], root / "constraints.txt", wheels)


def requirements(rig: Rig, node: str, project: dict[str, object]) -> list[str]:
    """What pip must install for a node, from the tables of ``pyproject.toml``; of the drivers only those it uses."""
    table = project["project"]
    assert isinstance(table, dict)
    wanted = {name.lower() for name in NODE_NEEDS}
    found = [line for line in table["dependencies"] if re.split(r"[^A-Za-z0-9._-]", line)[0].lower() in wanted]
    extras = table["optional-dependencies"]
    drivers = dict.fromkeys(camera.driver for camera in rig.cameras_of(node))
    return found + [line for name in drivers for line in extras.get(DRIVER_EXTRAS.get(name, ""), [])]


async def install(pc: Pc, rig: Rig, package: Package) -> None:
    """Make the environment in the PC's folder where it is missing, and install into it. Raises RemoteError."""
    project = tomllib.loads((_checkout() / "pyproject.toml").read_text(encoding="utf-8"))
    venv, there = posixpath.join(pc.folder, ".venv"), posixpath.join(pc.folder, "install")
    python = posixpath.join(venv, "bin/python")
    if (await pc.run(python, "-c", "import pip")).status:
        made = await pc.run(pc.config.python, "-m", "venv", venv, timeout=_INSTALL_S)
        if made.status:
            advice = "apt-get install python3-venv there, or set python in its [[node]] table"
            raise RemoteError(f"no environment can be made with {pc.config.python} ({made.reason}); {advice}")
    checked = await pc.run(python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))")
    if checked.status:
        raise RemoteError(f"{pc.config.python} there is older than 3.11; set python in its [[node]] table")
    for file in (package.wheel, package.constraints):
        await pc.upload(file, posixpath.join(there, file.name))
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if package.wheels:
        await pc.upload(package.wheels, posixpath.join(there, "wheels"))
        pip += ["--no-index", "--find-links", posixpath.join(there, "wheels")]
    constraints = posixpath.join(there, package.constraints.name)
    steps = (
        [*pip, "--constraint", constraints, *requirements(rig, pc.name, project)],
        [*pip, "--no-deps", "--force-reinstall", posixpath.join(there, package.wheel.name)],
    )
    for step in steps:
        done = await pc.run(*step, timeout=_INSTALL_S)
        if done.status:
            raise RemoteError(f"pip cannot install headstream there: {_pips_reason(done.stderr) or done.reason}")


def with_wheel_built(wheels: Path | None) -> tuple[tempfile.TemporaryDirectory[str], Package]:
    """A package in a temporary folder, which the caller cleans up. Raises RemoteError."""
    folder = tempfile.TemporaryDirectory(prefix="headstream-wheel-")
    try:
        return folder, build(Path(folder.name), wheels)
    except BaseException:
        folder.cleanup()
        raise


def _pips_reason(stderr: str) -> str:
    errors = [line.partition("ERROR: ")[2] for line in stderr.splitlines() if "ERROR: " in line]
    return errors[-1] if errors else ""


def _has_setuptools() -> bool:
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0]) >= 77  # as pyproject.toml wants it
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False


def _checkout() -> Path:
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").exists():
        raise RemoteError(
            "--install builds the wheel from a checkout of headstream; this one was installed from a wheel"
        )
    return root

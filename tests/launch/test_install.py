"""What a camera PC gets: this checkout, and of its dependencies only what a node needs."""

import subprocess
import sys
import tomllib

import pytest

from launch.doctor_node import NODE_NEEDS
from launch.remote.install import build, requirements
from protocol.rig import parse_rig

# Runs in a process of its own: nothing can be imported but the standard library, what the node needs (and what that
# needs), and our own rooms.
ONLY_WHAT_A_NODE_NEEDS = """
import importlib.metadata as metadata, re, sys

wanted, todo = set(), list(sys.argv[1:])
while todo:
    name = re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", todo.pop())[0]).lower()
    if name in wanted:
        continue
    wanted.add(name)
    try:
        todo += [line for line in metadata.requires(name) or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:
        continue  # for other systems
allowed = {
    module
    for module, owners in metadata.packages_distributions().items()
    if any(re.sub(r"[-_.]+", "-", owner).lower() in wanted for owner in owners)
} | {"protocol", "capture_nodes", "launch"} | set(sys.stdlib_module_names)
ours = set(metadata.packages_distributions())

class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in ours - allowed or top in ("geometry", "models", "fusion_server"):
            raise ModuleNotFoundError(f"No module named {name!r}: it is not among what a node needs")

sys.meta_path.insert(0, Blocker())
import capture_nodes.encode, capture_nodes.node, capture_nodes.drivers.replay
import launch.doctor_node, launch.probe, launch.service.control, launch.service.keeper
from launch.cli import app
capture_nodes.encode.Encoder(90)
app(["version"])
"""


def test_a_node_runs_with_what_it_is_said_to_need(root):
    command = [sys.executable, "-c", ONLY_WHAT_A_NODE_NEEDS, *NODE_NEEDS]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("headstream ")


def test_the_blocker_above_blocks(root):
    needs = [name for name in NODE_NEEDS if name != "pyzmq"]
    command = [sys.executable, "-c", ONLY_WHAT_A_NODE_NEEDS, *needs]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert "No module named 'zmq'" in done.stderr


def test_pip_is_told_versions_and_only_the_drivers_that_the_node_uses(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())
    camera = {"id": "a", "node": "pc1", "driver": "pylon"}
    rig = parse_rig({"name": "r", "calibration": "c", "camera": [camera, {**camera, "id": "b", "driver": "replay"}]})
    wanted = requirements(rig, "pc1", project)
    assert {line.split(">")[0] for line in wanted} == {*NODE_NEEDS, "pypylon"}
    assert all(">=" in line for line in wanted)


@pytest.mark.slow
def test_this_checkouts_wheel_is_built(tmp_path, root):
    package = build(tmp_path)
    assert package.wheel.name.startswith("headstream-")
    assert package.constraints.exists()
    assert not (root / "build").exists()

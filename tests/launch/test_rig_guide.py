"""The guide's rig file is one that works, and what the guide says to type exists."""

import re
import tomllib

import pytest
from typer.main import get_command

from launch.cli import app
from launch.doctor_node import NODE_NEEDS
from protocol.rig import parse_rig


@pytest.fixture
def guide(root):
    return (root / "docs" / "rig.md").read_text(encoding="utf-8")


def test_the_rig_file_in_the_guide_parses(guide):
    (text,) = re.findall(r"```toml\n(name = .*?)```", guide, re.DOTALL)
    rig = parse_rig(tomllib.loads(text))
    assert len(rig.cameras) == 8
    assert rig.nodes == tuple(pc.name for pc in rig.pcs) == ("pc1", "pc2")
    assert len({camera.serial for camera in rig.cameras}) == 8


def test_every_command_in_the_guide_exists(guide):
    known = get_command(app).commands
    named = set(re.findall(r"`headstream ([a-z]+)", guide)) | set(
        re.findall(r"^ +headstream ([a-z]+)", guide, re.MULTILINE)
    )
    assert {"deploy", "doctor", "start", "logs"} <= named
    assert named <= set(known)


def test_the_guide_brings_what_a_node_needs(guide):
    line = re.search(r"pip wheel.*?\n(.*?)\n", guide)[1]
    assert set(line.split()) == set(NODE_NEEDS)

"""Four PCs in network namespaces, from deploy to stop: the whole benchmark, short."""

import subprocess
import sys

import pytest

from benchmarks import _netlab, _ssh_pcs

reason = _netlab.missing() or _ssh_pcs.missing()


@pytest.mark.slow
@pytest.mark.skipif(bool(reason), reason=reason)
def test_four_pcs_are_launched_by_one_command(root):
    command = [sys.executable, "-m", "benchmarks", "four_pcs", "--seconds", "2", "--fps", "10"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=115, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok  kill -9 of pc2's node: it comes back" in done.stdout

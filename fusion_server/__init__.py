"""The server: receive -> synchronise -> decode -> normals -> surface -> preview and takes."""

import os

# The stages share the cores. By default OpenMP's threads, which numba's kernels run on, wait for their next loop by
# spinning, and take a third of the machine from the others by it. Read when the first kernel runs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

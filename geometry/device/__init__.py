"""Kernels of our own in one source for two machines: a GPU, and an emulation on the CPU that tests run.

``kernel.h`` says how a kernel is written, ``build`` compiles it, ``library`` calls it on torch tensors.
"""

from geometry.device.library import Library, Resident, compute_device

__all__ = ["Library", "Resident", "compute_device"]

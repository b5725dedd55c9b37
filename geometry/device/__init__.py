"""Kernels of our own in one source for two machines: a GPU, and an emulation on the CPU that tests run.

``kernel.h`` says how a kernel is written, ``build`` compiles it, ``library`` calls it on torch tensors. ``lane`` keeps
work on a device in order and hands its results on.
"""

from geometry.device.lane import Handover, Lane, Laps, Mark
from geometry.device.library import Library, Resident, compute_device

__all__ = ["Handover", "Lane", "Laps", "Library", "Mark", "Resident", "compute_device"]

#!/usr/bin/env bash
# The CUDA surface alone on a machine with a GPU and nvcc: contract tests, then each step's time against its floor.
# TINY=1 goes through it in the emulation on a CPU.
exec bash "$(dirname "$0")/run.sh" compile tests kernels kernels-many

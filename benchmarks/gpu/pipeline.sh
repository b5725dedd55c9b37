#!/usr/bin/env bash
# From JPEGs to meshes alone on a machine with a GPU and nvcc: contract tests, the decoders side by side, then a baked
# take of 10 views of 512 px through the pipeline. TINY=1 goes through it on a CPU.
exec bash "$(dirname "$0")/run.sh" compile tests decoders pipeline pipeline-two-gpus

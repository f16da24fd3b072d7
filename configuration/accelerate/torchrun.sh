#!/bin/bash
# Several machines without SLURM and without accelerate's launcher; every device holds the whole model (DDP). Run this
# on each machine, in any order, from the root of the checkout. The machines find each other at FIRST_MACHINE:29500.
#
#   configuration/accelerate/torchrun.sh FIRST_MACHINE MACHINES DEVICES_OF_EACH RECIPE --bf16 true [--argument value ...]
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 FIRST_MACHINE MACHINES DEVICES_OF_EACH [RECIPE] [--argument value ...]" >&2
    exit 2
fi
first_machine=$1 machines=$2 devices=$3
shift 3
exec torchrun --nnodes "$machines" --nproc_per_node "$devices" --max_restarts 0 \
    --rdzv_backend c10d --rdzv_id modeling_mini --rdzv_endpoint "$first_machine:${PORT:-29500}" train.py "$@"

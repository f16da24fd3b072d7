#!/bin/bash
# A SLURM job on several machines, with FSDP2 over all their devices (multi-node.yaml). From the root of the checkout:
#
#   sbatch --nodes 16 configuration/accelerate/slurm.sh RECIPE [--argument value ...]
#
#SBATCH --job-name=modeling_mini
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --output=%x-%j.log
set -euo pipefail

gpus=${SLURM_GPUS_PER_NODE:-8} # "8", or "h100:8"
export GPUS_PER_NODE=${gpus##*:}
machines=$(scontrol show hostnames "$SLURM_JOB_NODELIST") # one per line; a pipe into head could end the job by SIGPIPE
export MAIN_PROCESS_IP=${machines%%$'\n'*}

# One launcher per machine; srun sets SLURM_NODEID, the number of the machine.
srun --kill-on-bad-exit=1 --cpu-bind=none bash -c 'accelerate launch \
    --config_file configuration/accelerate/multi-node.yaml \
    --num_machines "$SLURM_NNODES" \
    --num_processes $((SLURM_NNODES * GPUS_PER_NODE)) \
    --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$MAIN_PROCESS_IP" \
    --main_process_port "${MAIN_PROCESS_PORT:-29500}" \
    train.py "$@"' launcher "$@"

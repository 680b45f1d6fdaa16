#!/bin/bash
# Train on a Slurm cluster: one task for each GPU; a job that is stopped resumes in another.
#
#     sbatch --nodes=2 docs/scripts/slurm.sh qaconv:market1501 --workdir=/shared/runs/market \
#         --config.data.dir=/shared/data
#
# Work directory, data and this checkout must be on a file system that all nodes see.
#SBATCH --ntasks-per-node=4
# Every task has to see all GPUs of its node; JAX takes the one with the task's number.
#SBATCH --gpus-per-node=4
# A signal five minutes before the end: the run saves a checkpoint and ends with status 75.
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
if [ $# -lt 2 ]; then
  echo "usage: sbatch $0 RECIPE --workdir=DIR [--config.SETTING=VALUE ...]" >&2
  exit 2
fi
recipe=$1
shift
srun "${PYTHON:-.venv/bin/python}" -m jaxreid.main --distributed --config="$recipe" "$@"
status=$?
if [ $status -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $status

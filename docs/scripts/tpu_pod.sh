#!/bin/bash
# Train on a TPU pod: the same command on every host, started again while it is stopped.
#
#     docs/scripts/tpu_pod.sh NAME ZONE qaconv:market1501 --workdir=/mnt/shared/runs/market \
#         --config.data.dir=/mnt/shared/data
#
# Every host needs this checkout with an environment in ~/jaxreid, and a file system that all see.
set -u
if [ $# -lt 4 ]; then
  echo "usage: $0 NAME ZONE RECIPE --workdir=DIR [--config.SETTING=VALUE ...]" >&2
  exit 2
fi
name=$1 zone=$2 recipe=$3
shift 3
# One word for the shell of the hosts.
command="cd jaxreid && .venv/bin/python -m jaxreid.main --distributed $(printf '%q ' --config="$recipe" "$@")"
while true; do
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$command"
  status=$?
  # 75: stopped, for example by the maintenance of a host; the run goes on from its checkpoint.
  [ $status -eq 75 ] || exit $status
  sleep "${PAUSE:-30}"
done

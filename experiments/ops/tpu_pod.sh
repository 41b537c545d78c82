#!/usr/bin/env bash
# Trains the models of an experiment on a Cloud TPU pod slice. Needs the gcloud CLI.
#
#   experiments/ops/tpu_pod.sh create  NAME ZONE TYPE          such as v5litepod-64
#   experiments/ops/tpu_pod.sh install NAME ZONE               this folder, on every worker
#   experiments/ops/tpu_pod.sh launch  NAME ZONE FLAGS...      of experiments.train_subsets
#   experiments/ops/tpu_pod.sh collect NAME ZONE WORKERS DIR FLAGS...
#                                                          every worker's part, into DIR/run
#   experiments/ops/tpu_pod.sh delete  NAME ZONE
#
# Every worker trains its part into run/ on its own disk. launch continues what a preempted
# slice has left if its disks are still there; else collect from time to time, which adds to
# DIR/run what is new. FLAGS there say where the images are on this machine. With
# --bank_dir=gs://BUCKET/RUN among the FLAGS the models are in a bucket, where workers meet
# and nothing is lost with a slice; then worker 0's run/ is all there is to collect.
# DRY_RUN=1 prints the commands instead of running them.
set -euo pipefail

usage() {
  sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
  exit 2
}

run() {
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

(($# >= 3)) || usage
action=$1 name=$2 zone=$3
shift 3
tpu=(gcloud compute tpus tpu-vm)
everywhere=("${tpu[@]}" ssh "$name" --zone="$zone" --worker=all)

case $action in
create)
  (($# == 1)) || usage
  run "${tpu[@]}" create "$name" --zone="$zone" --accelerator-type="$1" \
    --version="${TPU_VERSION:-v2-alpha-tpuv5-lite}"
  ;;
install)
  run tar -czf /tmp/jaxdm.tgz --exclude=.venv --exclude=.git --exclude=runs .
  run "${tpu[@]}" scp /tmp/jaxdm.tgz "$name": --zone="$zone" --worker=all
  run "${everywhere[@]}" --command="mkdir -p jaxdm && tar -xzf jaxdm.tgz -C jaxdm && \
cd jaxdm && python3 -m venv .venv && .venv/bin/pip install -q -e '.[run,data,tpu,gcs]'"
  ;;
launch)
  flags=$(printf '%q ' "$@")
  run "${everywhere[@]}" --command="cd jaxdm && nohup .venv/bin/python -m \
experiments.train_subsets --workdir=run --distributed --own_disk $flags \
>>train.log 2>&1 </dev/null &"
  ;;
collect)
  (($# >= 2)) || usage
  workers=$1 folder=$2
  shift 2
  run mkdir -p "$folder/run"
  for ((worker = 0; worker < workers; worker++)); do
    # Into a folder that exists scp would copy a folder of its own.
    run rm -rf "$folder/worker-$worker"
    run "${tpu[@]}" scp --recurse "$name:jaxdm/run" "$folder/worker-$worker" \
      --zone="$zone" --worker="$worker"
  done
  # Settings, and what the models on all data have said once they are trained.
  run cp -r "$folder/worker-0/stages" "$folder/run/"
  if [[ -e $folder/worker-0/base_models || -n ${DRY_RUN:-} ]]; then
    run rm -rf "$folder/run/base_models"
    run cp -r "$folder/worker-0/base_models" "$folder/run/"
  fi
  for ((worker = 0; worker < workers; worker++)); do
    run "${PYTHON:-.venv/bin/python}" -m experiments.ops.bank --workdir="$folder/run" \
      --do=merge --other="$folder/worker-$worker" "$@"
  done
  ;;
delete)
  run "${tpu[@]}" delete "$name" --zone="$zone"
  ;;
*) usage ;;
esac

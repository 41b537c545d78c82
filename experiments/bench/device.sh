#!/usr/bin/env bash
# A quarter of an hour of an accelerator at most: what the project computes there, how fast, and what
# becomes of predictions at full size.
#
#   bash experiments/bench/device.sh OUT [IMAGES]
#
# Run it from the project's root. It needs Python with what the extras run and bench name,
# Pillow, and for the tests pytest and hypothesis; nothing need be installed of the
# project itself. OUT is a folder for logs and JSON
# files. IMAGES is an archive of CIFAR-10 that `experiments.ops.image_files` wrote. Each
# part has a time limit of its own, prints its table when it ends, and leaves its files;
# a part that fails does not stop the next one.
#
#   PARTS="tests trainer lasso full_size"  which parts, in this order
#   SECONDS_tests=90 ...                   time limit of a part
#   ARGS_trainer="--rounds=1" ...          further flags of a part
#   PYTHON=python3
set -u
out=${1:?a folder for the results}
images=${2:-}
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false

part() { # NAME DEFAULT_SECONDS COMMAND...
  local name=$1 limit=$2
  shift 2
  case " ${PARTS:-tests trainer lasso full_size} " in *" $name "*) ;; *) return ;; esac
  local seconds="SECONDS_$name" more="ARGS_$name" began=$SECONDS status=0
  echo "== $name"
  # shellcheck disable=SC2086
  timeout "${!seconds:-$limit}" "$@" ${!more:-} >"$out/$name.log" 2>&1 || status=$?
  tr '\r' '\n' <"$out/$name.log" | grep -v -e '/s\]' -e '^$' | tail -n "${LINES_SHOWN:-40}"
  echo "== $name ended with $status after $((SECONDS - began)) s"
}

$python -c 'import jax; print(jax.__version__, jax.devices())'
# Untuned kernels: compiling is most of what the tests do.
XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_autotune_level=0" \
  part tests 90 $python -m pytest -q -m device -p no:cacheprovider \
  tests/training tests/lasso
part trainer 240 $python -m experiments.bench.trainer --rounds=1 \
  --json="$out/trainer.json"
part lasso 120 $python -m experiments.bench.lasso --sides=jaxdm,saga \
  --json="$out/lasso.json"
if [ -n "$images" ] && [[ " ${PARTS:-full_size} " == *" full_size "* ]]; then
  folder=$(mktemp -d)
  tar -xzf "$images" -C "$folder"
  part full_size 400 $python -m experiments.studies.full_size --preset=cifar10-fast \
    --num_base=8 --gradient_dim=4096 --dataset=folder --data_dir="$folder" \
    --json="$out/full_size.json"
  rm -rf "$folder"
fi

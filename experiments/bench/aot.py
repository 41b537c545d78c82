"""Compiles the trainer and the lasso for an accelerator that the machine does not have.

  pip install -e '.[run,aot]'
  python -m experiments.bench.aot --target=h100 --preset=cifar10 --json=aot_h100.json
  python -m experiments.bench.aot --target=v5e:2x2 --preset=cifar10 --vmap_width=1

Targets are h100 and h200, and TPU slices such as v5e:2x2, v5p:2x2x1 and v6e:2x2. XLA's
compilers for them come with the extra `aot`; no driver and no device are needed. The
extra is best installed in an environment of its own, since a CUDA plugin without a GPU
makes JAX complain. The table has a line for each program:

  step        one step of `--vmap_width` models, with shuffling and augmentation
  begin, advance, predict, gradients   the programs that a fleet runs on a chunk
  lasso       the product with the Gram matrix, of 4,096 targets

Kernels are what a device launches; loops count as often as they run where XLA knows that,
else once, as those of `advance` do. Bytes are those that XLA counts where its compiler
says so (TPUs), else the sizes of what kernels read and write; an operand counts whole,
also where a part of it is read. From operations, bytes and launches follow three times,
at the rates that the makers state and at our estimate for a launch. The longest of them
is an estimate of what a step takes at best; real devices need more (an H200 more than
twice as much for `cifar10`, see docs/accelerators.md).
`experiments.bench.plan --bench=FILE` takes the JSON file where no device was measured.
"""

import collections
import dataclasses
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.bench import cost, measure
from experiments.config import experiment_flags
from experiments.runtime import help as help_page
from experiments.runtime import program
from jaxdm import devices, numerics, training_sets
from jaxdm.errors import UserError
from jaxdm.lasso import design
from jaxdm.training import inputs as inputs_lib
from jaxdm.training import train
from jaxdm.training.fleet import Fleet
from jaxdm.training.inputs import Inputs

_NAMES = ("step", "begin", "advance", "predict", "gradients", "lasso")
_LASSO_TARGETS = 4096
_NETWORK_WINDOW = 5  # The largest window of ResNet-9's convolutions.
_ITEM_BYTES = {
  "pred": 1,
  "s8": 1,
  "u8": 1,
  "s16": 2,
  "u16": 2,
  "f16": 2,
  "bf16": 2,
  "s32": 4,
  "u32": 4,
  "f32": 4,
  "s64": 8,
  "u64": 8,
  "f64": 8,
}
# Instructions that launch nothing.
_FREE = {
  *("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "partition-id"),
  *("copy-start", "copy-done", "slice-start", "slice-done", "async-start", "async-done"),
  *("async-update", "after-all", "opt-barrier", "iota", "while", "call", "conditional"),
}


class Device(NamedTuple):
  """What a maker states of a device.

  Attributes:
    kind: as JAX names it, or about so.
    flops: bfloat16 operations a second.
    bandwidth: bytes a second.
    memory: bytes.
    launch: seconds that a kernel costs at least; our estimate.
  """

  kind: str
  flops: float
  bandwidth: float
  memory: float
  launch: float


DEVICES = {
  "h100": Device("NVIDIA H100 80GB HBM3", 989e12, 3.35e12, 80e9, 2.5e-6),
  "h200": Device("NVIDIA H200", 989e12, 4.8e12, 141e9, 2.5e-6),
  "v5e": Device("TPU v5 lite", 197e12, 0.819e12, 16e9, 1e-6),
  "v5p": Device("TPU v5", 459e12, 2.765e12, 95e9, 1e-6),
  "v6e": Device("TPU v6 lite", 918e12, 1.64e12, 32e9, 1e-6),
}

# What XLA's GPU compiler must know of a card, in XLA's GpuTargetConfigProto.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132
  fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: {bandwidth:.0f} l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: {memory:.0f}
  shared_memory_per_block_optin: 232448 cuda_compute_capability {{ major: 9 minor: 0 }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
device_description_str: "{kind}"
"""


class Found(NamedTuple):
  """What a compiled program's text says.

  Attributes:
    kernels: launches, by kind.
    bytes: the sizes of what they read and write.
    strange_convolutions: kernels that convolve with windows larger than the network's.
  """

  kernels: dict[str, int]
  bytes: float
  strange_convolutions: int


def described(target: str) -> Device:
  """The device that a target is made of.

  Raises:
    UserError: if it is not known.
  """
  name = target.partition(":")[0]
  if name not in DEVICES:
    raise UserError("target", f"must be of {', '.join(DEVICES)}, got {target!r}")
  return DEVICES[name]


def topology(target: str) -> list[Any]:
  """Devices to compile for.

  Raises:
    UserError: if there is no such target, or no compiler for it is installed.
  """
  about = described(target)
  from jax.experimental import topologies

  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  jax.config.update("jax_platforms", "cpu")
  jax.devices()  # Registers the plugins.
  try:
    if target.startswith("h"):
      found = topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        target_config=_HOPPER.format(**about._asdict()),
        topology="1x1x1",
      )
    else:
      found = topologies.get_topology_desc(platform="tpu", topology_name=target)
  except Exception as error:  # Plugins raise many kinds.
    raise UserError(
      "target",
      f"={target} cannot be compiled for: {str(error).splitlines()[0]}; it needs "
      "pip install 'jaxdm[aot]', and a TPU slice that exists",
    ) from error
  return list(found.devices)


def read(text: str) -> Found:
  """What the text of a compiled program says of its kernels."""
  bodies, entry = _computations(text)
  kernels: collections.Counter[str] = collections.Counter()
  total, strange = 0.0, 0

  def visit(name: str, times: int) -> None:
    nonlocal total, strange
    sizes: dict[str, float] = {}
    for line in bodies.get(name, []):
      match = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)", line)
      if not match:
        continue
      result, shape, kind, rest = match.groups()
      sizes[result] = _bytes(shape)
      if kind in ("while", "call", "conditional"):
        trips = re.search(r'known_trip_count":\{"n":"(\d+)"', rest)
        names = r"(?:body|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
        for inner in re.findall(names, rest):
          visit(inner, times * (int(trips[1]) if trips else 1))
      is_scalar = "[]" in shape and kind not in ("fusion", "custom-call")
      if kind in _FREE or is_scalar or "AllocateBuffer" in rest:
        continue
      kernels[_kind(kind, rest)] += times
      operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
      total += times * (sizes[result] + sum(sizes.get(name, 0.0) for name in operands))
      window = re.search(r"window=\{size=(\d+)x(\d+)", rest)
      if window and max(map(int, window.groups())) > _NETWORK_WINDOW:
        strange += 1

  visit(entry, 1)
  return Found(dict(kernels), total, strange)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """The instructions of each computation, and the name of the first to run."""
  bodies: dict[str, list[str]] = {}
  entry, lines = "", list[str]()
  for line in text.splitlines():
    head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
    if head:
      lines = bodies[head[2]] = []
      entry = head[2] if head[1] else entry
    else:
      lines.append(line)
  return bodies, entry


def _kind(kind: str, rest: str) -> str:
  """A word for a kernel."""
  if kind == "convolution" or "__cudnn$conv" in rest:
    return "convolution"
  if kind == "dot" or "__cublas" in rest:
    return "product"
  return "fusion" if kind == "fusion" else "other"


def _bytes(shape: str) -> float:
  """Of a shape, or of all in a tuple."""
  total = 0.0
  for dtype, sizes in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shape):
    numbers = math.prod(int(size) for size in sizes.split(",") if size)
    total += numbers * _ITEM_BYTES.get(dtype, 0)
  return total


def programs(fleet: Fleet, size: cost.Size) -> dict[str, Callable[[], Any]]:
  """By name, what lowers each program for the devices that are compiled for.

  Args:
    fleet: whose programs they are.
    size: of its problem.
  """
  rows, n, t = fleet.rows, size.num_train, size.num_targets
  shape, k = size.image_shape, shape_of(jnp.int32)
  keys = jax.eval_shape(lambda: jax.vmap(jax.random.key)(jnp.zeros(rows, jnp.uint32)))
  inputs = Inputs(
    shape_of(jnp.uint8, n, *shape),
    shape_of(jnp.float32, n, shape[-1]),
    shape_of(jnp.float32, n, shape[-1]),
  )
  sets = training_sets.TrainingSets(
    shape_of(jnp.int32, rows, n), shape_of(jnp.int32, rows, n), shape_of(jnp.int32, rows)
  )
  made = fleet.programs
  state = jax.eval_shape(made.begin, inputs, keys)
  variables = jax.eval_shape(made.variables, inputs, (state, sets))
  examples = shape_of(jnp.uint8, n + t, *shape), shape_of(jnp.int32, n + t)

  def lowered(fn: Any, shared: Any, per_row: Any) -> Callable[[], Any]:
    return lambda: fn.lower(
      devices.abstract(shared, by_row=False), devices.abstract(per_row, by_row=True)
    )

  gram = design.Gram(shape_of(jnp.float32, n, n))
  weights = shape_of(jnp.float32, _LASSO_TARGETS, n)
  return {
    "step": lambda: _step(fleet, inputs, sets, keys, state),
    "begin": lowered(made.begin, inputs, keys),
    "advance": lowered(made.advance, (inputs, (k, k)), (state, sets, keys)),
    "predict": lowered(made.predict, shape_of(jnp.uint8, t, *shape), variables),
    "gradients": lowered(made.gradients, examples, (variables, keys)),
    "lasso": lowered(devices.spread(design.times_gram), gram, weights),
  }


def shape_of(dtype: Any, *shape: int) -> Any:
  """An array of which only type and shape are known."""
  return jax.ShapeDtypeStruct(shape, dtype)


def _step(fleet: Fleet, inputs: Any, sets: Any, keys: Any, state: Any) -> Any:
  """One step of as many models as run side by side on one device, lowered."""
  recipe, width = fleet.recipe, fleet.choice.vmap_width

  def one(inputs: Inputs, i: Any, training_set: Any, key: Any, state: Any) -> Any:
    found = inputs_lib.statistics(inputs, training_set.indices, training_set.counts)
    return train.one_step(recipe, inputs, training_set, found, key, i, state)

  lead = (width,) if width > 1 else ()

  def cut(tree: Any) -> Any:
    return jax.tree.map(lambda x: shape_of(x.dtype, *lead, *x.shape[1:]), tree)

  many = jax.vmap(one, (None, None, 0, 0, 0)) if width > 1 else one
  arguments = inputs, shape_of(jnp.int32), cut(sets), cut(keys), cut(state)
  where = devices.local()[0]
  placed = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=jax.sharding.SingleDeviceSharding(where)
    ),
    arguments,
  )
  return jax.jit(many, donate_argnums=4).lower(*placed)


def compiled(name: str, lower: Callable[[], Any], about: Device) -> dict[str, Any]:
  """Compiles a program; returns what there is to know of it."""
  start = time.perf_counter()
  made = lower().compile()
  seconds = time.perf_counter() - start
  text, memory = made.as_text(), made.memory_analysis()
  found, told = read(text), made.cost_analysis() or {}
  arguments = memory.argument_size_in_bytes + memory.output_size_in_bytes
  return {
    "program": name,
    "compile_seconds": seconds,
    "temp_bytes": memory.temp_size_in_bytes,
    "memory_share": (memory.temp_size_in_bytes + arguments) / about.memory,
    "kernels": sum(found.kernels.values()),
    "kernels_by_kind": found.kernels,
    "strange_convolutions": found.strange_convolutions,
    "flops": told.get("flops"),
    "bytes": told.get("bytes accessed") or found.bytes,
    "exact_products": "operand_precision={highest,highest}" in text,
  }


def roofline(
  flops: float, moved: float, kernels: float, about: Device
) -> dict[str, float]:
  """Seconds that operations, bytes and launches take at least."""
  return {
    "compute_seconds": flops / about.flops,
    "memory_seconds": moved / about.bandwidth,
    "launch_seconds": kernels * about.launch,
  }


def table(results: list[dict[str, Any]]) -> str:
  """The programs as Markdown."""
  columns = "program | compile s | temporary GB | of the memory | kernels | fusions, "
  columns += "convolutions, products, other | strange | GB moved"
  lines = [f"| {columns} |", "|---" * 8 + "|"]
  for r in results:
    by_kind = r["kernels_by_kind"]
    kinds = ", ".join(
      str(by_kind.get(kind, 0)) for kind in ("fusion", "convolution", "product", "other")
    )
    lines.append(
      f"| {r['program']} | {r['compile_seconds']:.0f} | {r['temp_bytes'] / 1e9:.2f} | "
      f"{r['memory_share']:.0%} | {r['kernels']:,} | {kinds} | "
      f"{r['strange_convolutions']} | {r['bytes'] / 1e9:.2f} |"
    )
  return "\n".join(lines)


def of_step(
  step: Mapping[str, Any],
  width: int,
  samples: int,
  flops_per_sample: float,
  about: Device,
) -> dict[str, Any]:
  """What a step says of the trainer, per model; the bench's row for `plan` among it.

  Args:
    step: of `compiled`.
    width: models side by side.
    samples: images a step and model.
    flops_per_sample: of training on one, by the layers' formulas.
    about: the device.
  """
  flops = step["flops"] or width * samples * flops_per_sample
  times = roofline(flops, step["bytes"], step["kernels"], about)
  seconds = max(times.values())
  return {
    "strange_convolutions": step["strange_convolutions"],
    "kernels": step["kernels"],
    "temp_bytes_per_model": step["temp_bytes"] / width,
    "bytes_per_step": step["bytes"] / width,
    "flops_per_step": flops / width,
    **times,
    "samples_per_second": width * samples / seconds,
    "share_of_peak": flops / seconds / about.flops,
  }


def define_flags() -> None:
  """Flags of this program alone: another one has a `--target`, too."""
  flags.DEFINE_string("target", "h100", "h100, h200, or a TPU slice, such as v5e:2x2.")
  flags.DEFINE_list("programs", None, "Only these of the programs above; default: all.")


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Compiles, prints the table, writes it."""
  if argv[1:]:
    raise UserError(None, f"arguments must be flags, got {argv[1]!r}; see --help")
  measure.check()
  target: str = flags.FLAGS["target"].value or ""
  names = flags.FLAGS["programs"].value or list(_NAMES)
  if unknown := set(names) - set(_NAMES):
    raise UserError("programs", f"must be some of {', '.join(_NAMES)}, got {unknown}")
  about = described(target)
  experiment = experiment_flags.experiment({})
  size = cost.problem_size(experiment)
  speed = experiment_flags.speed()
  width = speed.vmap_width if isinstance(speed.vmap_width, int) else 1
  backend = speed.conv_backend if speed.conv_backend in ("im2col", "lax") else "lax"
  speed = dataclasses.replace(speed, vmap_width=width, conv_backend=backend)
  config = experiment.train
  with devices.compiled_for(topology(target)), numerics.pinned():
    values = np.broadcast_to(np.uint8(0), (size.num_train, *size.image_shape))
    fleet = Fleet(
      config,
      values,
      size.num_classes,
      speed,
      gradient_dim=experiment.gradient.gradient_dim,
    )
    width = fleet.choice.vmap_width
    lowers, results = programs(fleet, size), []
    for name in names:
      results.append(compiled(name, lowers[name], about))
      print(table(results[-1:]).splitlines()[-1], flush=True)
  found: dict[str, Any] = {
    "machine": {"device": f"{about.kind} (compiled for, not measured)", "devices": 1},
    "target": target,
    "jax": jax.__version__,
    "date": time.strftime("%Y-%m-%d"),
    "programs": results,
    "results": [],
  }
  print(table(results))
  steps = [r for r in results if r["program"] == "step"]
  if steps:
    per_sample = cost.flops_per_sample(config, size.image_shape, size.num_classes)
    one = of_step(steps[0], width, config.batch_size, per_sample, about)
    memory = {r["program"]: r["temp_bytes"] for r in results}
    row = f"w{config.width}-{size.image_shape[0]}x{size.image_shape[1]}"
    found |= one
    found["results"] = [
      {
        "row": f"{row}-b{config.batch_size}, estimated from the compiled program",
        "side": "fleet",
        "flops_per_sample": per_sample,
        "samples_per_second": one["samples_per_second"],
        "memory_bytes": memory.get("advance", memory["step"]),
      }
    ]
    print(
      f"a step of one model: {one['flops_per_step'] / 1e9:,.0f} GFLOP, "
      f"{one['bytes_per_step'] / 1e9:.3f} GB; {width} side by side take at best "
      f"{1e3 * one['compute_seconds']:.3f} ms by operations, "
      f"{1e3 * one['memory_seconds']:.3f} by bytes, {1e3 * one['launch_seconds']:.3f} by "
      f"launches: at most {one['share_of_peak']:.0%} of peak, "
      f"{one['samples_per_second']:,.0f} images a second"
    )
  measure.write(found)


if __name__ == "__main__":
  define_flags()
  flags.adopt_module_key_flags(measure)
  help_page.exit_if_asked(measure)
  program.run(main)

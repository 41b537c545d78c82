"""Compiles the trainer and the lasso for an accelerator that the machine does not have.

  pip install -e '.[run,aot]'
  python -m experiments.bench.aot --target=h100 --preset=cifar10 --json=aot_h100.json
  python -m experiments.bench.aot --target=v5e:2x2 --preset=cifar10 --vmap_width=1

Targets are h100 and h200, and TPU slices such as v5e:2x2, v5p:2x2x1 and v6e:2x2. XLA's
compilers for them come with the extra `aot`; no driver and no device are needed. The
extra is best installed in an environment of its own, since a CUDA plugin without a GPU
makes JAX complain. The table has a line for each program:

  step        one step of `--vmap_width` models, with shuffling and augmentation
  begin, advance, predict, gradients   the programs that a fleet runs in a call
  lasso       the product with the Gram matrix, of 4,096 targets

Kernels are what a device launches; loops count as often as they run where XLA knows that,
else once, as those of `advance` do. Bytes are what kernels and copies read from the
device's memory and write to it; what a TPU's compiler keeps on the chip between kernels
does not count, and of an array from which a kernel gathers rows, only these count. A step
alone first copies all images into the layout from which it gathers, as a call of
`advance` does once. From operations, bytes and launches follow three times, at the rates
that the makers state and at our estimate for a launch. The longest of them is an estimate
of what a step takes at best; real devices need more (an H200 more than twice as much for
`cifar10`, see docs/accelerators.md). For TPUs v5, the compiler's own estimate of a step
is printed, too.
`experiments.bench.plan --bench=FILE` takes the JSON file where no device was measured.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.bench import accelerators, compiled_text, cost, measure
from experiments.bench.accelerators import Device
from experiments.config import experiment_flags, settings
from experiments.runtime import help as help_page
from experiments.runtime import program
from jaxdm import devices, numerics, training_sets
from jaxdm.errors import UserError
from jaxdm.lasso import design
from jaxdm.training import inputs as inputs_lib
from jaxdm.training import train
from jaxdm.training.config import TrainConfig
from jaxdm.training.fleet import Fleet
from jaxdm.training.inputs import Inputs

_NAMES = ("step", "begin", "advance", "predict", "gradients", "lasso")
PROGRAMS = flags.DEFINE_list(
  "programs", None, "Only these of the programs above; default: all."
)
_LASSO_TARGETS = 4096


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
  fleet_programs = fleet.runner.programs
  state = jax.eval_shape(fleet_programs.begin, inputs, keys)
  variables = jax.eval_shape(fleet_programs.variables, inputs, (state, sets))
  examples = shape_of(jnp.uint8, n + t, *shape), shape_of(jnp.int32, n + t)

  def lower_for_devices(fn: Any, shared: Any, per_row: Any) -> Callable[[], Any]:
    return lambda: fn.lower(
      devices.abstract(shared, by_row=False), devices.abstract(per_row, by_row=True)
    )

  is_wanted = shape_of(jnp.bool_, rows)
  gram = design.Gram(shape_of(jnp.float32, n, n))
  weights = shape_of(jnp.float32, _LASSO_TARGETS, n)
  return {
    "step": lambda: _step(fleet, inputs, sets, keys, state),
    "begin": lower_for_devices(fleet_programs.begin, inputs, keys),
    "advance": lower_for_devices(
      fleet_programs.advance,
      (inputs, (k, k)),
      (state, sets, keys, is_wanted),
    ),
    "predict": lower_for_devices(
      fleet_programs.predict, shape_of(jnp.uint8, t, *shape), variables
    ),
    "gradients": lower_for_devices(
      fleet_programs.gradients, examples, (variables, keys, is_wanted)
    ),
    "lasso": lower_for_devices(devices.shard_map(design.times_gram), gram, weights),
  }


def shape_of(dtype: Any, *shape: int) -> Any:
  """An array of which only type and shape are known."""
  return jax.ShapeDtypeStruct(shape, dtype)


def _step(fleet: Fleet, inputs: Any, sets: Any, keys: Any, state: Any) -> Any:
  """One step of as many models as run side by side on one device, lowered."""
  recipe, width = fleet.recipe, fleet.choice.vmap_width

  def one(inputs: Inputs, i: Any, training_set: Any, key: Any, state: Any) -> Any:
    stats = inputs_lib.statistics(inputs, training_set.indices, training_set.counts)
    return train.one_step(recipe, inputs, training_set, stats, key, i, state)

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


def compile_program(name: str, lower: Callable[[], Any], about: Device) -> dict[str, Any]:
  """Compiles a program; returns what there is to know of it."""
  start = time.perf_counter()
  program = lower().compile()
  seconds = time.perf_counter() - start
  text, memory = program.as_text(), program.memory_analysis()
  program_text, costs = compiled_text.read(text), program.cost_analysis() or {}
  arguments = memory.argument_size_in_bytes + memory.output_size_in_bytes
  return {
    "program": name,
    "compile_seconds": seconds,
    "temp_bytes": memory.temp_size_in_bytes,
    "memory_share": (memory.temp_size_in_bytes + arguments) / about.memory,
    "kernels": sum(program_text.kernels.values()),
    "kernels_by_kind": program_text.kernels,
    "strange_convolutions": program_text.strange_convolutions,
    "flops": costs.get("flops"),
    "bytes": program_text.bytes,
    "estimate_seconds": program_text.cycles / about.clock if about.clock else None,
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
    step: of `compile_program`.
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


def define_target() -> None:
  """The flag that another program has, too: it is defined where this one runs alone."""
  flags.DEFINE_string("target", "h100", "h100, h200, or a TPU slice, such as v5e:2x2.")


def _fleet(experiment: settings.Experiment, size: cost.Size) -> Fleet:
  """The fleet that the flags describe; what is measured elsewhere has its default."""
  speed = experiment_flags.speed()
  width = speed.vmap_width if isinstance(speed.vmap_width, int) else 1
  backend = speed.conv_backend if speed.conv_backend in ("im2col", "lax") else "lax"
  return Fleet(
    experiment.train,
    np.broadcast_to(np.uint8(0), (size.num_train, *size.image_shape)),
    size.num_classes,
    dataclasses.replace(speed, vmap_width=width, conv_backend=backend),
    gradient_dim=experiment.gradient.gradient_dim,
  )


def _trainer_row(
  config: TrainConfig, size: cost.Size, per_sample: float, results: list[dict[str, Any]]
) -> dict[str, Any]:
  """The row of the trainer's benchmark, for `plan`; the speed is added."""
  memory = {r["program"]: r["temp_bytes"] for r in results}
  row = f"w{config.width}-{size.image_shape[0]}x{size.image_shape[1]}"
  return {
    "row": f"{row}-b{config.batch_size}, estimated from the compiled program",
    "side": "fleet",
    "flops_per_sample": per_sample,
    "memory_bytes": memory.get("advance", memory["step"]),
  }


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Compiles, prints the table, writes it."""
  program.check_no_arguments(argv)
  measure.check()
  target: str = flags.FLAGS["target"].value or ""
  names = PROGRAMS.value or list(_NAMES)
  if unknown := set(names) - set(_NAMES):
    raise UserError("programs", f"must be some of {', '.join(_NAMES)}, got {unknown}")
  about = accelerators.device_of(target)
  experiment = experiment_flags.experiment({})
  size, config = cost.problem_size(experiment), experiment.train
  with devices.compile_for(accelerators.topology(target)), numerics.pinned():
    fleet = _fleet(experiment, size)
    width = fleet.choice.vmap_width
    lowers, results = programs(fleet, size), []
    for name in names:
      results.append(compile_program(name, lowers[name], about))
      print(table(results[-1:]).splitlines()[-1], flush=True)
  report: dict[str, Any] = {
    "machine": {"device": f"{about.kind} (compiled for, not measured)", "devices": 1},
    "target": target,
    "jax": jax.__version__,
    "date": time.strftime("%Y-%m-%d"),
    "programs": results,
    "results": [],
  }
  print(table(results))
  for step in [r for r in results if r["program"] == "step"]:
    per_sample = cost.flops_per_sample(config, size.image_shape, size.num_classes)
    one = of_step(step, width, config.batch_size, per_sample, about)
    row = _trainer_row(config, size, per_sample, results)
    report |= one
    report["results"] = [row | {"samples_per_second": one["samples_per_second"]}]
    print(
      f"a step of one model: {one['flops_per_step'] / 1e9:,.0f} GFLOP, "
      f"{one['bytes_per_step'] / 1e9:.3f} GB; {width} side by side take at best "
      f"{1e3 * one['compute_seconds']:.3f} ms by operations, "
      f"{1e3 * one['memory_seconds']:.3f} by bytes, {1e3 * one['launch_seconds']:.3f} by "
      f"launches: at most {one['share_of_peak']:.0%} of peak, "
      f"{one['samples_per_second']:,.0f} images a second"
    )
    if step["estimate_seconds"]:
      print(f"the compiler estimates {1e3 * step['estimate_seconds']:.1f} ms")
  measure.write(report)


if __name__ == "__main__":
  define_target()
  flags.adopt_module_key_flags(measure)
  help_page.print_and_exit(
    measure, extra=experiment_flags.SOURCES, groups=experiment_flags.GROUPS
  )
  program.run(main)

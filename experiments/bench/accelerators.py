"""Accelerators to compile for: what their makers state, and XLA's devices."""

import os
from typing import Any, NamedTuple

import jax

from jaxdm.errors import UserError


class Device(NamedTuple):
  """What a maker states of a device.

  Attributes:
    kind: as JAX names it, or about so.
    flops: bfloat16 operations a second.
    bandwidth: bytes a second.
    memory: bytes.
    launch: seconds that a kernel costs at least; our estimate.
    clock: cycles a second, of TPUs whose makers state them.
  """

  kind: str
  flops: float
  bandwidth: float
  memory: float
  launch: float
  clock: float | None = None


DEVICES = {
  "h100": Device("NVIDIA H100 80GB HBM3", 989e12, 3.35e12, 80e9, 2.5e-6),
  "h200": Device("NVIDIA H200", 989e12, 4.8e12, 141e9, 2.5e-6),
  "v5e": Device("TPU v5 lite", 197e12, 0.819e12, 16e9, 1e-6, clock=1.5e9),
  "v5p": Device("TPU v5", 459e12, 2.765e12, 95e9, 1e-6, clock=1.75e9),
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


def device_of(target: str) -> Device:
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
  about = device_of(target)
  from jax.experimental import topologies

  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  jax.config.update("jax_platforms", "cpu")
  jax.devices()  # Registers the plugins.
  try:
    if target.startswith("h"):
      description = topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        target_config=_HOPPER.format(**about._asdict()),
        topology="1x1x1",
      )
    else:
      description = topologies.get_topology_desc(platform="tpu", topology_name=target)
  except Exception as error:  # Plugins raise many kinds.
    raise UserError(
      "target",
      f"={target} cannot be compiled for: {str(error).splitlines()[0]}; it needs "
      "pip install 'jaxdm[aot]', and a TPU slice that exists",
    ) from error
  return list(description.devices)

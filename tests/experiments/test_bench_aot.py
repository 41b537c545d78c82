"""Programs for accelerators that are not there."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from experiments.bench import accelerators, aot, compiled_text, cost, plan
from experiments.config import presets
from jaxdm.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]

TEXT = """
HloModule jit_step, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%fused (p.1: f32[4]) -> f32[4] {
  %p.1 = f32[4]{0} parameter(0)
  ROOT %add.1 = f32[4]{0} add(%p.1, %p.1)
}

%body (p.2: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p.2 = (s32[], f32[4]{0}) parameter(0)
  %x.2 = f32[4]{0} get-tuple-element(%p.2), index=1
  %i.2 = s32[] get-tuple-element(%p.2), index=0
  %two.2 = f32[4]{0} fusion(%x.2), kind=kLoop, calls=%fused
  ROOT %t.2 = (s32[], f32[4]{0}) tuple(%i.2, %two.2)
}

%condition (p.3: (s32[], f32[4])) -> pred[] {
  %p.3 = (s32[], f32[4]{0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (a: bf16[2,8,8,4], k: bf16[4,3,3,4], x: f32[4]) -> f32[4] {
  %a = bf16[2,8,8,4]{3,2,1,0} parameter(0)
  %k = bf16[4,3,3,4]{3,2,1,0} parameter(1)
  %x = f32[4]{0} parameter(2)
  %conv = (bf16[2,8,8,4]{3,2,1,0}, u8[16]{0}) custom-call(%a, %k), """ + (
  """window={size=3x3 pad=1_1x1_1}, custom_call_target="__cudnn$convForward"
  %wide = (bf16[4,3,3,4]{3,2,1,0}, u8[0]{0}) custom-call(%a, %a), """
  """window={size=8x8 pad=1_1x1_1}, custom_call_target="__cudnn$convForward"
  %t = (s32[], f32[4]{0}) tuple(%x, %x)
  %loop = (s32[], f32[4]{0}) while(%t), condition=%condition, body=%body, """
  """backend_config={"known_trip_count":{"n":"8"}}
  ROOT %out = f32[4]{0} get-tuple-element(%loop), index=1
}
"""
)


def test_kernels_bytes_and_strange_windows_are_counted() -> None:
  found = compiled_text.read(TEXT)
  assert found.kernels == {"convolution": 2, "fusion": 8}
  assert found.strange_convolutions == 1
  image, kernel = 2 * 8 * 8 * 4 * 2, 4 * 3 * 3 * 4 * 2
  convolutions = (image + kernel + image + 16) + (2 * image + kernel)
  assert found.bytes == convolutions + 8 * (16 + 16)


ON_CHIP = """
HloModule jit_step

%fused (p: u8[1000,8], i: s32[16]) -> bf16[16,8] {
  %p = u8[1000,8]{1,0} parameter(0)
  %i = s32[16]{0:T(128)S(1)} parameter(1)
  %rows = u8[16,8]{1,0} gather(%p, %i), offset_dims={1}, slice_sizes={1,8}
  ROOT %out = bf16[16,8]{1,0} convert(%rows)
}

ENTRY %main (images: u8[1000,8], i: s32[16], x: bf16[64,8]) -> bf16[64,8] {
  %images = u8[1000,8]{1,0:T(8,128)(4,1)} parameter(0)
  %i = s32[16]{0:T(128)S(1)} parameter(1)
  %x = bf16[64,8]{1,0:T(8,128)(2,1)} parameter(2)
  %chosen = bf16[16,8]{1,0:T(8,128)(2,1)S(1)} fusion(%images, %i), calls=%fused
  %part = ((bf16[64,8]{1,0:T(8,128)}), bf16[32,8]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) """ + (
  """slice-start(%x), slice={[0:32], [0:8]}
  %half = bf16[32,8]{1,0:T(8,128)S(1)} slice-done(%part)
  %both = bf16[64,8]{1,0:T(8,128)S(1)} custom-call(%half, %half), """
  """custom_call_target="ConcatBitcast"
  ROOT %sum = bf16[64,8]{1,0:T(8,128)} add(%both, %x)
}
"""
)


def test_what_stays_on_the_chip_counts_when_it_is_copied() -> None:
  found = compiled_text.read(ON_CHIP)
  assert found.kernels == {"fusion": 1, "other": 1}
  gathered, copied, added = 16 * 8, 32 * 8 * 2, 2 * 64 * 8 * 2
  assert found.bytes == gathered + copied + added


def test_the_longest_of_three_times_bounds_the_speed() -> None:
  about = accelerators.Device(
    "some", flops=1e12, bandwidth=1e11, memory=1e10, launch=1e-6
  )
  step = {
    "flops": None,
    "bytes": 4e8,
    "kernels": 100,
    "strange_convolutions": 0,
    "temp_bytes": 6e6,
  }
  found = aot.of_step(step, 2, 32, 1e8, about)
  assert found["compute_seconds"] == pytest.approx(2 * 32 * 1e8 / 1e12)
  assert found["memory_seconds"] == pytest.approx(4e-3)
  assert found["launch_seconds"] == pytest.approx(1e-4)
  assert found["samples_per_second"] == pytest.approx(2 * 32 / 6.4e-3)
  assert found["share_of_peak"] == pytest.approx(1.0)
  assert (found["temp_bytes_per_model"], found["bytes_per_step"]) == (3e6, 2e8)


@pytest.mark.parametrize("target", ["a100", "v9:2x2"])
def test_an_unknown_target_is_named(target) -> None:
  with pytest.raises(UserError, match=f"h100, h200, v5e, .* got '{target}'"):
    accelerators.device_of(target)


def _compiled(tmp_path, target: str, *more: str) -> dict:
  """What the program finds for a network of width 4 on 8x8 images, 2 side by side."""
  file = tmp_path / "aot.json"
  command = [sys.executable, "-m", "experiments.bench.aot", f"--target={target}"]
  command += ["--preset=fashion", "--width=4", "--compute_dtype=bfloat16", "--chunk=2"]
  command += ["--vmap_width=2", "--programs=step,lasso", f"--json={file}", *more]
  env = os.environ | {"JAX_PLATFORMS": "cpu"}
  subprocess.run(command, cwd=ROOT, env=env, check=True)
  found: dict = json.loads(file.read_text())
  return found


def _check(found: dict) -> None:
  step, lasso = found["programs"]
  assert found["strange_convolutions"] == 0
  assert 30 < found["kernels"] < 1000
  assert found["temp_bytes_per_model"] >= 0 and found["flops_per_step"] > 1e6
  assert step["compile_seconds"] > 0 and step["bytes"] > 1e5
  assert lasso["exact_products"]
  [row] = found["results"]
  assert "estimated from the compiled program" in row["row"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["lax", "im2col"])
def test_small_programs_compile_for_a_gpu_that_is_not_there(tmp_path, backend) -> None:
  if not importlib.util.find_spec("jax_cuda12_plugin"):
    pytest.skip("the extra aot is not installed: no CUDA plugin")
  _check(_compiled(tmp_path, "h100", f"--conv_backend={backend}"))


@pytest.mark.slow
def test_small_programs_compile_for_a_tpu_that_is_not_there(tmp_path) -> None:
  if not importlib.util.find_spec("libtpu"):
    pytest.skip("the extra aot is not installed: no libtpu")
  _check(_compiled(tmp_path, "v5e:2x2", "--conv_backend=lax"))


def test_a_plan_takes_a_bound_where_no_device_was_measured() -> None:
  experiment = presets.PRESETS["cifar10"]()
  size = cost.problem_size(experiment)
  per_sample = cost.flops_per_sample(experiment.train, size.image_shape, 10)
  bench = {
    "machine": {"device": "TPU v5 lite (compiled for, not measured)", "devices": 1},
    "results": [
      {
        "row": "w64-32x32-b512, estimated from the compiled program",
        "side": "fleet",
        "flops_per_sample": per_sample,
        "samples_per_second": 100_000.0,
        "memory_bytes": 1e9,
      }
    ],
  }
  made = plan.plan(bench, experiment, size)
  assert made.source == (
    "w64-32x32-b512, estimated from the compiled program on TPU v5 lite (compiled for, "
    "not measured)"
  )
  # 24 epochs of half of 50,000 images, in whole batches of 512.
  assert made.device_hours == pytest.approx(made.num_models * 1172 * 512 / 1e5 / 3600)

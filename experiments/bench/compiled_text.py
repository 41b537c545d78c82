"""What the text of a compiled program (HLO) says of its kernels and bytes."""

import collections
import math
import re
from typing import NamedTuple

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


class ProgramText(NamedTuple):
  """What a compiled program's text says.

  Attributes:
    kernels: launches, by kind.
    bytes: the sizes of what they read and write.
    strange_convolutions: kernels that convolve with windows larger than the network's.
  """

  kernels: dict[str, int]
  bytes: float
  strange_convolutions: int


def read(text: str) -> ProgramText:
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
  return ProgramText(dict(kernels), total, strange)


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

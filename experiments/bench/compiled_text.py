"""What the text of a compiled program (HLO) says of its kernels and bytes."""

import collections
import math
import re
from collections.abc import Iterator
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
_FREE_CALLS = "AllocateBuffer", "ConcatBitcast"
# Copies that run beside kernels, between the device's memory and the chip.
_COPIES = "copy-start", "slice-start"


class ProgramText(NamedTuple):
  """What a compiled program's text says.

  Attributes:
    kernels: launches, by kind.
    bytes: what they and copies read from the device's memory and write to it. What a
      TPU's compiler keeps on the chip (in the text, arrays of a space `S(1)`) counts when
      it is copied, and an array of which a kernel gathers a part counts by that part.
    strange_convolutions: kernels that convolve with windows larger than the network's.
    cycles: what a TPU's compiler estimates that the kernels take; 0: no estimates.
  """

  kernels: dict[str, int]
  bytes: float
  strange_convolutions: int
  cycles: float


def read(text: str) -> ProgramText:
  """What the text of a compiled program says of its kernels."""
  bodies, entry = _computations(text)
  kernels: collections.Counter[str] = collections.Counter()
  total, cycles, strange = 0.0, 0.0, 0

  def visit(name: str, times: int) -> None:
    nonlocal total, cycles, strange
    sizes: dict[str, float] = {}
    for result, shape, kind, rest in _instructions(bodies.get(name, [])):
      sizes[result] = _bytes(shape)
      if kind in ("while", "call", "conditional"):
        trips = re.search(r'known_trip_count":\{"n":"(\d+)"', rest)
        names = r"(?:body|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
        for inner in re.findall(names, rest):
          visit(inner, times * (int(trips[1]) if trips else 1))
      if kind in _COPIES:
        total += times * _copied_bytes(shape)
      is_scalar = "[]" in shape and kind not in ("fusion", "custom-call")
      if kind in _FREE or is_scalar or any(name in rest for name in _FREE_CALLS):
        continue
      kernels[_kind(kind, rest)] += times
      estimate = re.search(r'"estimated_cycles":"(\d+)"', rest)
      cycles += times * int(estimate[1]) if estimate else 0
      called = re.search(r"calls=%?([\w.\-]+)", rest)
      parts = _gathered(bodies.get(called[1], [])) if called else {}
      total += times * sizes[result]
      for i, operand in enumerate(_operands(rest)):
        size = sizes.get(operand, 0.0)
        total += times * min(size, parts.get(i, size))
      window = re.search(r"window=\{size=(\d+)x(\d+)", rest)
      if window and max(map(int, window.groups())) > _NETWORK_WINDOW:
        strange += 1

  visit(entry, 1)
  return ProgramText(dict(kernels), total, strange, cycles)


def _instructions(lines: list[str]) -> Iterator[tuple[str, str, str, str]]:
  """Result, shape, kind, and operands with attributes of each instruction."""
  for line in lines:
    match = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)", line)
    if match:
      yield match[1], match[2], match[3], match[4]


def _operands(rest: str) -> list[str]:
  """The names of an instruction's operands."""
  return re.findall(r"%([\w.\-]+)", rest.split("), ")[0])


def _gathered(lines: list[str]) -> dict[int, float]:
  """Of a kernel's parameters of which nothing but a part is gathered: its bytes."""
  numbers, uses = dict[str, int](), dict[str, list[float]]()
  for result, shape, kind, rest in _instructions(lines):
    if kind == "parameter":
      numbers[result] = int(rest.split(")")[0])
      continue
    for place, operand in enumerate(_operands(rest)):
      is_part = kind in ("gather", "dynamic-slice") and place == 0
      uses.setdefault(operand, []).append(_bytes(shape) if is_part else math.inf)
  return {i: sum(uses[name]) for name, i in numbers.items() if name in uses}


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
  """Of a shape, or of all in a tuple, in the device's memory."""
  return sum(size for size, on_chip in _arrays(shape) if not on_chip)


def _copied_bytes(shape: str) -> float:
  """What a copy of this shape, which has source and target, reads and writes."""
  [(size, on_chip), (other_size, other_on_chip)] = _arrays(shape)[:2]
  return min(size, other_size) * ((not on_chip) + (not other_on_chip))


def _arrays(shape: str) -> list[tuple[float, bool]]:
  """Of each array of a shape: its bytes, and whether it is on the chip."""
  arrays = []
  for dtype, sizes, layout in re.findall(r"([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?", shape):
    numbers = math.prod(int(size) for size in sizes.split(",") if size)
    arrays.append((float(numbers * _ITEM_BYTES.get(dtype, 0)), "S(" in layout))
  return arrays

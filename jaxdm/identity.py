"""Identities: what a stored result depends on, down to the last number.

A result may be used again only where everything that it depends on is the same. `digest`
is the one function that turns such things into text. It reads all of an array and refuses
what it does not know, so that nothing is left out silently. `made_by` says what computed
a result: that is recorded beside the result, and is no part of its identity.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.resources
import math
import os
import pathlib
import platform
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from jaxdm import numerics

_DIGEST_BYTES = 16
_BLOCK_BYTES = 2**26
_PACKAGES = ("jaxdm", "jax", "jaxlib", "flax", "optax", "numpy")
# They change what a compiled program computes, and cannot be set from inside.
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")


class Bits(NamedTuple):
  """A bool array, eight values to a byte; it has the digest of the plain array.

  Attributes:
    shape: of the bool array.
    bits: uint8[..., ceil(shape[-1] / 8)], as `np.packbits(array, axis=-1)` makes them.
  """

  shape: tuple[int, ...]
  bits: np.ndarray


@runtime_checkable
class HasIdentity(Protocol):
  """An object that says itself what it depends on."""

  def identity(self) -> Any:
    """Values that `digest` accepts."""
    ...


def digest(value: Any) -> str:
  """A 128-bit digest of everything in a value.

  The encoding is unambiguous: each part carries its type and length, so that
  ["ab", "c"] differs from ["a", "bc"], and 1 from 1.0 and True. Lists and tuples count as
  equal, mappings whatever the order of their keys. Arrays of equal type, shape and bits
  have equal digests whatever their byte order and memory layout; they are read a block of
  rows at a time, so that they may be memory maps.

  Args:
    value: None, bool, int, float, str, bytes, a mapping or sequence, a frozen dataclass,
      a NumPy or JAX array of numbers, a typed JAX key, an object with a method `identity`
      (as `training_sets.PackedMasks` and `MatrixView` are), or any nesting of
      these.

  Returns:
    32 hexadecimal characters.

  Raises:
    TypeError: on anything else, such as a function or an array of objects, saying where
      it is.
  """
  hasher = _new_hash()
  _encode(hasher, value, "value")
  return hasher.hexdigest()


def computation() -> dict[str, Any]:
  """What JAX is told to compute with; a part of the identity of what it computes."""
  return dict(numerics.PINNED)


@functools.cache
def made_by() -> dict[str, str]:
  """What computes results in this process.

  Returns:
    Versions of packages, a digest of all files of jaxdm, the kind of device, and the
    variables and options that change what XLA compiles, if they are set.
  """
  about = {name: _version(name) for name in _PACKAGES}
  about["code"] = code_digest(pathlib.Path(str(importlib.resources.files("jaxdm"))))
  about["device"] = _device()
  variables = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
  return about | variables | numerics.changed_options()


def _version(package: str) -> str:
  """Of a package; a checkout that is not installed has none, and its code's digest."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return "not installed"


def code_digest(package: pathlib.Path) -> str:
  """A digest of all files of a package, data included, caches and hidden files not."""
  files = {
    path.relative_to(package).as_posix(): path.read_bytes()
    for path in package.rglob("*")
    if path.is_file() and not _is_ignored(path.relative_to(package))
  }
  return digest(files)


def _is_ignored(path: pathlib.Path) -> bool:
  """Whether a file of a package is a cache or hidden."""
  return "__pycache__" in path.parts or any(part.startswith(".") for part in path.parts)


def _device() -> str:
  """The kind of device; of a CPU, whose instructions change rounding, its model too."""
  kind = jax.local_devices()[0].device_kind
  if kind != "cpu":
    return str(kind)
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    lines = []
  names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
  return f"cpu, {names[0] if names else platform.machine()}"


def _new_hash() -> "hashlib.blake2b":
  """An empty digest."""
  return hashlib.blake2b(digest_size=_DIGEST_BYTES)


def _encode(hasher: "hashlib.blake2b", value: Any, place: str) -> None:
  """Adds a value's type, length and content to a digest."""
  if value is None or type(value) is bool:
    _add(hasher, b"n", str(value).encode())
  elif type(value) is int:
    _add(hasher, b"i", str(value).encode())
  elif type(value) is float:
    _add(hasher, b"f", value.hex().encode())
  elif type(value) is str:
    _add(hasher, b"s", value.encode("utf-8", "surrogatepass"))
  elif type(value) is bytes:
    _add(hasher, b"b", value)
  elif isinstance(value, Bits):
    _encode_bits(hasher, value)
  elif isinstance(value, (np.ndarray, np.generic, jax.Array)) and not isinstance(
    value, np.ma.MaskedArray
  ):
    _encode_array(hasher, value, place)
  elif dataclasses.is_dataclass(value) and not isinstance(value, type):
    _encode_dataclass(hasher, value, place)
  elif isinstance(value, HasIdentity) and not isinstance(value, type | types.ModuleType):
    _encode(hasher, value.identity(), place)
  elif isinstance(value, Mapping):
    _encode_parts(hasher, b"m", value, place)
  elif isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
    fields = getattr(value, "_fields", None)  # Of a named tuple.
    if fields:
      by_field = dict(zip(fields, value, strict=True))
      _encode_parts(hasher, b"t", by_field, place)
    else:
      _add(hasher, b"l", str(len(value)).encode())
      for i, item in enumerate(value):
        _encode(hasher, item, f"{place}[{i}]")
  else:
    raise TypeError(
      f"an identity cannot hold {place}, a {type(value).__module__}."
      f"{type(value).__qualname__}; accepted are plain values, sequences, mappings, "
      "frozen dataclasses and arrays of numbers"
    )


def _add(hasher: "hashlib.blake2b", tag: bytes, content: bytes) -> None:
  """Adds a type's tag, a length, and as many bytes."""
  hasher.update(b"%b%d:" % (tag, len(content)))
  hasher.update(content)


def _encode_parts(
  hasher: "hashlib.blake2b", tag: bytes, parts: Mapping[Any, Any], place: str
) -> None:
  """Adds a mapping, ordered by the digests of its keys."""
  _add(hasher, tag, str(len(parts)).encode())
  for key_digest, key in sorted((digest(key), key) for key in parts):
    _add(hasher, b"k", key_digest.encode())
    _encode(hasher, parts[key], f"{place}[{key!r}]")


def _encode_dataclass(hasher: "hashlib.blake2b", value: Any, place: str) -> None:
  """Adds a frozen dataclass's name and fields."""
  if not type(value).__dataclass_params__.frozen:
    raise TypeError(f"an identity cannot hold {place}, a dataclass that is not frozen")
  fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
  _encode_parts(hasher, b"d", {type(value).__qualname__: fields}, place)


def _encode_array(hasher: "hashlib.blake2b", array: Any, place: str) -> None:
  """Adds an array's type and shape, and its bytes in C order and little-endian."""
  if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
    _add(hasher, b"K", str(jax.random.key_impl(array)).encode())
    array = jax.random.key_data(array)
  dtype = np.dtype(array.dtype)
  if not (dtype.kind == "b" or jax.dtypes.issubdtype(dtype, np.number)):
    raise TypeError(
      f"an identity cannot hold {place}, an array of {dtype}, not of numbers"
    )
  if dtype.kind == "b" and array.ndim:
    packed = (np.packbits(block, axis=-1) for block in _blocks(array))
    _encode_rows(hasher, "bool", array.shape, packed)
  else:
    _encode_rows(hasher, dtype.name, array.shape, _blocks(array))


def _encode_bits(hasher: "hashlib.blake2b", value: Bits) -> None:
  """Adds packed bools as the plain array is added."""
  used = value.shape[-1] % 8
  last = np.uint8(0xFF << (8 - used) & 0xFF) if used else np.uint8(0xFF)

  def clear_blocks() -> Iterator[np.ndarray]:
    for block in _blocks(value.bits):
      if (block[..., -1:] & ~last).any():  # Bits that stand for no value.
        block = np.concatenate([block[..., :-1], block[..., -1:] & last], axis=-1)
      yield block

  _encode_rows(hasher, "bool", value.shape, clear_blocks())


def _encode_rows(
  hasher: "hashlib.blake2b",
  dtype: str,
  shape: Sequence[int],
  blocks: Iterator[np.ndarray],
) -> None:
  """Adds an array whose blocks of rows come one by one."""
  _add(hasher, b"a", f"{dtype}{[int(size) for size in shape]}".encode())
  for block in blocks:
    little = block.astype(block.dtype.newbyteorder("<"), copy=False)
    # A view of bytes: some types, such as bfloat16, have no buffer.
    hasher.update(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)


def _blocks(array: Any) -> Iterator[np.ndarray]:
  """An array, a block of its first axis at a time."""
  if not array.ndim or not array.size:
    yield np.asarray(array)
    return
  row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
  size = max(1, _BLOCK_BYTES // max(1, row_bytes))
  for start in range(0, array.shape[0], size):
    yield np.asarray(array[start : start + size])

"""The design X that many lassos share: its Gram, its rows, or its rows as bits.

Columns have units of their own and are centred, because the lassos' intercepts are free.
Rows that have weights count as often (see `matrices.ColumnScales`).
Everything here reads X a block of rows at a time.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdm import devices, prng
from jaxdm.matrices import (
  ColumnScales,
  Matrix,
  centred_blocks,
  scale_rows,
  unit_blocks,
)
from jaxdm.typing import Array

Form = Literal["gram", "rows", "bits"]
_BITS_BLOCK_ROWS = 512
# Of float32 products: accelerators would round them to TF32 or bfloat16.
EXACT = lax.Precision.HIGHEST
_POWER_STEPS = 50


class Gram(NamedTuple):
  """gram_nn: centred X'X / m."""

  gram_nn: Array


class Rows(NamedTuple):
  """rows_mn: centred X / sqrt(m)."""

  rows_mn: Array


class Bits(NamedTuple):
  """X of zeros and ones, eight to a byte.

  Attributes:
    bits: uint8[blocks, rows, n / 8]; rows of zeros fill the last block.
    mean_n: of X's columns.
    num_rows: m.
    weights: float[blocks, rows], the rows' weights; None: 1.
  """

  bits: Array
  mean_n: Array
  num_rows: Array
  weights: Array | None = None


Design = Gram | Rows | Bits


def times_gram(design: Design, weights_tn: Array) -> jax.Array:
  """weights_tn times centred X'X / m, as [t, n]."""
  if isinstance(design, Gram):
    return jnp.dot(weights_tn, design.gram_nn, precision=EXACT)
  if isinstance(design, Rows):
    fit_tm = jnp.einsum("tn,mn->tm", weights_tn, design.rows_mn, precision=EXACT)
    return jnp.dot(fit_tm, design.rows_mn, precision=EXACT)
  return _times_gram_of_bits(design, weights_tn)


def _times_gram_of_bits(design: Bits, weights_tn: Array) -> jax.Array:
  """The same, unpacking a block of rows at a time."""
  n, dtype = weights_tn.shape[1], weights_tn.dtype
  offset_t = jnp.dot(weights_tn, design.mean_n, precision=EXACT)

  def add(total_tn: jax.Array, block: Any) -> tuple[jax.Array, None]:
    bits, weights = block
    rows = jnp.unpackbits(bits, axis=1, count=n).astype(dtype)
    fit = jnp.einsum("tn,mn->tm", weights_tn, rows, precision=EXACT) - offset_t[:, None]
    fit = fit if weights is None else fit * weights
    return total_tn + jnp.dot(fit, rows, precision=EXACT), None

  # Rows of zeros beyond the last contribute nothing to the product with X.
  blocks = design.bits, design.weights
  total_tn, _ = lax.scan(add, jnp.zeros_like(weights_tn), blocks)
  # Centring the second factor too would subtract sum(fit) * mean, and sum(fit) is 0.
  return total_tn / design.num_rows


def largest_eigenvalue(design: Design, n: int, dtype: Any) -> Array:
  """An upper estimate of the largest eigenvalue of centred X'X / m."""
  return _power_iteration(design, n, jnp.dtype(dtype))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _power_iteration(design: Design, n: int, dtype: Any) -> Array:
  """From below; 5 % are added for what is left."""
  start = jax.random.normal(prng.root_key(0), (1, n), dtype)

  def step(_: int, vector: Array) -> Array:
    vector = times_gram(design, vector)
    return vector / jnp.maximum(jnp.linalg.norm(vector), jnp.finfo(dtype).tiny)

  vector = lax.fori_loop(0, _POWER_STEPS, step, start / jnp.linalg.norm(start))
  return 1.05 * jnp.linalg.norm(times_gram(design, vector))


def correlations(
  design_mn: Matrix, rows_m: np.ndarray, columns: ColumnScales, outcomes_mt: np.ndarray
) -> np.ndarray:
  """Centred outcomes' X / m, as float64[t, n].

  Args:
    design_mn: X.
    rows_m: which of its rows.
    columns: of those rows.
    outcomes_mt: float64, centred, one row for each of `rows_m`, times the root of its
      weight.
  """
  outcomes_mt = scale_rows(outcomes_mt, columns.root_m)
  with jax.enable_x64(True):
    total = jnp.zeros((outcomes_mt.shape[1], design_mn.shape[1]))
    for part, block in unit_blocks(design_mn, rows_m, columns):
      total = _add_correlation(total, outcomes_mt[part], block)
    # The outcomes sum to 0 but for rounding.
    offset_tn = np.outer(outcomes_mt.sum(axis=0), columns.mean_n)
    return np.asarray(total - offset_tn) / len(rows_m)


@functools.partial(jax.jit, donate_argnums=0)
def _add_correlation(total: Array, outcomes: Array, block: Array) -> Array:
  """Adds one block's part, in float64."""
  block = block.astype(jnp.float64)
  return total + jnp.einsum("mt,mn->tn", outcomes, block, precision=EXACT)


def centre(
  design_mn: Matrix, rows_m: np.ndarray, columns: ColumnScales, some: Any = slice(None)
) -> np.ndarray:
  """Some of the centred columns in memory, as float64[m, z]; rows are weighted."""
  parts = [block[:, some] for _, block in unit_blocks(design_mn, rows_m, columns)]
  centred_mz = np.concatenate(parts).astype(np.float64) - columns.mean_n[some]
  centred_mz = scale_rows(centred_mz, columns.root_m)
  centred_mz[:, columns.constant_n[some]] = 0
  return centred_mz


def make(
  form: Form,
  design_mn: Matrix,
  rows_m: np.ndarray,
  columns: ColumnScales,
  dtype: Any,
  lanes: int | None = None,
) -> Design:
  """The design in one of its forms, on every device that is used.

  Args:
    form: 'gram' costs n^2 numbers, 'rows' m * n, 'bits' (of a bool design) m * n / 8
      bytes and the time to unpack them at every step.
    design_mn: bool or real[m, n].
    rows_m: which of its rows.
    columns: of those rows.
    dtype: float32, or float64 where that is enabled.
    lanes: of the targets; see `devices.count_for`.
  """
  m, part = len(rows_m), (design_mn, rows_m, columns)
  if form == "gram":
    return devices.replicate(Gram(gram(*part, dtype)), lanes)
  if form == "rows":
    rows = [(block / m**0.5).astype(dtype) for _, block in centred_blocks(*part)]
    return devices.replicate(Rows(np.concatenate(rows)), lanes)
  bits_of_blocks = [np.packbits(block, axis=1) for _, block in unit_blocks(*part)]
  bits = np.concatenate(bits_of_blocks)
  fill = np.zeros((-m % _BITS_BLOCK_ROWS, bits.shape[1]), np.uint8)
  bits = np.concatenate([bits, fill]).reshape(-1, _BITS_BLOCK_ROWS, bits.shape[1])
  weights = None
  if columns.root_m is not None:
    weights = np.pad(columns.root_m**2, (0, len(fill))).astype(dtype)
    weights = weights.reshape(-1, _BITS_BLOCK_ROWS)
  design = Bits(bits, columns.mean_n.astype(dtype), np.asarray(m, dtype), weights)
  return devices.replicate(design, lanes)


def gram(
  design_mn: Matrix, rows_m: np.ndarray, columns: ColumnScales, dtype: Any
) -> jax.Array:
  """Centred X'X / m. Of zeros and ones without weights the counts are exact.

  Those are centred last.
  """
  n, m = design_mn.shape[1], len(rows_m)
  exact = design_mn.dtype == bool and columns.root_m is None and m < 2**24
  blocks = unit_blocks if exact else centred_blocks
  with jax.enable_x64(True):
    total = jnp.zeros((n, n), jnp.float32 if exact else jnp.float64)
    for _, block in blocks(design_mn, rows_m, columns):
      total = _add_gram(total, block)
    offset_n = columns.mean_n if exact else np.zeros(n)
    return _centre(total, offset_n, float(m), jnp.dtype(dtype))


@functools.partial(jax.jit, donate_argnums=0)
def _add_gram(total: Array, block: Array) -> Array:
  """Adds one block's part."""
  if block.dtype == bool:
    # Zeros and ones are exact in bfloat16 too, and accelerators then run at full speed.
    on_cpu = jax.default_backend() == "cpu"
    rows = block.astype(jnp.float32 if on_cpu else jnp.bfloat16)
    part = jnp.einsum("mi,mj->ij", rows, rows, preferred_element_type=jnp.float32)
    return total + part
  return total + jnp.einsum("mi,mj->ij", block, block, precision=EXACT)


@functools.partial(jax.jit, static_argnums=3)
def _centre(total: Array, offset_n: Array, m: Array, dtype: Any) -> Array:
  """Total / m minus the offsets' product, rounded once to `dtype`."""
  return (total.astype(jnp.float64) / m - offset_n[:, None] * offset_n).astype(dtype)

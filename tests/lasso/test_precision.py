"""Every product of floats that a certificate or a score depends on is exact to float32.

On CPU all are; elsewhere JAX rounds operands to TF32 or bfloat16 unless told otherwise.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdm.attribution import gradient
from jaxdm.datamodels import path
from jaxdm.lasso import certificate, design, fista


def products(jaxpr: Any) -> Iterator[Any]:
  """The matrix products of a jaxpr, those of inner functions too."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      yield equation
    for value in jax.tree.leaves(
      equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
    ):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        yield from products(inner)


def check(fn: Any, *arguments: Any, least: int = 1) -> None:
  """Raises AssertionError on a product of floats that accelerators may round."""
  found = list(products(jax.make_jaxpr(fn)(*arguments).jaxpr))
  assert len(found) >= least
  for equation in found:
    precision = equation.params["precision"]
    both = precision if isinstance(precision, tuple) else (precision, precision)
    assert both == (lax.Precision.HIGHEST,) * 2, equation


M, N, T = 20, 6, 4
W, BITS = np.ones((T, N), np.float32), np.packbits(np.ones((M, N), bool), axis=1)
DESIGNS = {
  "gram": design.Gram(np.eye(N, dtype=np.float32)),
  "rows": design.Rows(np.ones((M, N), np.float32)),
  "bits": design.Bits(
    BITS[None], np.ones(N, np.float32), np.float32(M), np.ones((1, M), np.float32)
  ),
}


@pytest.mark.parametrize("form", DESIGNS)
def test_steps_of_the_lasso(form) -> None:
  ones = np.ones(T, np.float32)
  free = np.zeros((T, 2), np.int32), np.ones((T, 2, 2), np.float32)
  problem = fista.Problem(W, ones, W, *free, np.ones((T, 2, N), np.float32))
  shared = fista.SharedInputs(
    DESIGNS[form], np.float32(1), np.float32(1), np.int32(1), np.asarray(True)
  )
  state = fista._begin(None, (jnp.asarray(W), jnp.asarray(W)))
  check(fista._advance, shared, (problem, state), least=4)
  check(lambda made: design.largest_eigenvalue(made, N, np.float32), DESIGNS[form])


def test_certificates_and_correlations() -> None:
  with jax.enable_x64(True):
    x, y, w = np.ones((M, N)), np.ones((M, T)), np.ones((T, N))
    sums = np.zeros((T, N)), *(np.zeros(T) for _ in range(3))
    check(certificate._add_residuals, sums, x, np.ones(N), np.ones(M), y, w, least=2)
    check(design._add_correlation, w, y, x)
    check(design._add_gram, np.ones((N, N)), x)


def test_validation_of_datamodels() -> None:
  shared = np.ones((M, N), bool), np.ones(N, np.float32), None
  rows = np.ones((2 * T, N), np.float32), np.ones((2 * T, M), np.float32)
  check(path._squared_errors(2), shared, rows, least=2)


def test_scores_of_gradients() -> None:
  rows = np.ones((M, N), np.float32)
  model = gradient.Gradients(rows, np.ones((T, N), np.float32), np.ones(M, np.float32))
  check(gradient.scores, rows, model.target_td)
  check(lambda model: gradient.influence(model, 0.5), model)
  check(lambda model: gradient.trak(model, 0.5), model)
  check(lambda model: gradient.newton_targets(model, 0.5), model)

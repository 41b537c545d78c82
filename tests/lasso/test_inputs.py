"""What the library takes: what scikit-learn takes; all else is refused in one line."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import jaxdm
from jaxdm import matrices, tiling, training_sets
from jaxdm.attribution.scores import ScoreRows
from jaxdm.datamodels import priors
from jaxdm.datamodels.config import FitConfig

M, N, T = 60, 9, 3
_RNG = np.random.default_rng(0)
MASKS = _RNG.random((M, N)) < 0.5
WEIGHTS = _RNG.normal(size=(T, N))
# Of so few digits that every dtype below holds them.
OUTCOMES = (4 * (MASKS @ WEIGHTS.T + _RNG.normal(size=(M, T)))).round()
CONFIG = FitConfig(num_lambdas=4)


def equal(a, b) -> None:
  """Two results of the same type, bit for bit."""
  a, b = (x._asdict() if hasattr(x, "_asdict") else vars(x) for x in (a, b))
  for name, value in a.items():
    np.testing.assert_array_equal(value, b[name], err_msg=name)


MATRICES = {
  "lists": lambda x: x.tolist(),
  "rows of tuples": lambda x: tuple(map(tuple, x)),
  "DataFrame": pd.DataFrame,
  "DataFrame of nullable numbers": lambda x: pd.DataFrame(x).convert_dtypes(),
  "objects": lambda x: x.astype(object),
  "csr": scipy.sparse.csr_matrix,
  "csc": scipy.sparse.csc_array,
  "coo": scipy.sparse.coo_array,
  "Fortran": np.asfortranarray,
  "big-endian": lambda x: x if x.dtype == bool else x.astype(x.dtype.newbyteorder(">")),
  "float16": lambda x: x.astype(np.float16),
  "int8": lambda x: x.astype(np.int8),
  "bfloat16": lambda x: x.astype(jnp.bfloat16),
}
VECTORS = {
  **{name: MATRICES[name] for name in ("lists", "objects", "big-endian", "int8")},
  "Series": pd.Series,
  "Series of nullable numbers": lambda x: pd.Series(x).convert_dtypes(),
  "a row of a DataFrame": lambda x: pd.DataFrame([x]).iloc[0],
}


@pytest.mark.parametrize("kind", MATRICES)
def test_matrices_of_any_kind_give_the_same_fits(kind) -> None:
  made = MATRICES[kind]
  expected = jaxdm.fit_lasso(MASKS, OUTCOMES, 0.1)
  equal(jaxdm.fit_lasso(MASKS, made(OUTCOMES), 0.1), expected)
  found = jaxdm.fit_lasso(made(MASKS), OUTCOMES, 0.1)  # No longer bool, perhaps.
  np.testing.assert_allclose(found.weights, expected.weights, atol=0.02)
  fit = jaxdm.fit_datamodels(MASKS, OUTCOMES, config=CONFIG)
  equal(jaxdm.fit_datamodels(made(MASKS), made(OUTCOMES), config=CONFIG), fit)
  np.testing.assert_array_equal(fit.predict(made(MASKS)), fit.predict(MASKS))
  scores, given = fit.evaluate(MASKS, OUTCOMES), (made(MASKS), made(OUTCOMES))
  equal(fit.evaluate(*given), scores)


@pytest.mark.parametrize("kind", VECTORS)
def test_a_vector_of_outcomes_is_one_target(kind) -> None:
  one = VECTORS[kind](OUTCOMES[:, 0])
  found = jaxdm.fit_lasso(MASKS, one, 0.1)
  assert found.weights.shape == (1, N) and found.gap.shape == (1,)
  equal(found, jaxdm.fit_lasso(MASKS, OUTCOMES[:, :1], 0.1))
  fit = jaxdm.fit_datamodels(MASKS, one, config=CONFIG)
  assert fit.weights_tn.shape == (1, N)
  equal(fit, jaxdm.fit_datamodels(MASKS, OUTCOMES[:, :1], config=CONFIG))
  assert fit.evaluate(MASKS, one).lds == fit.evaluate(MASKS, OUTCOMES[:, :1]).lds


def test_bool_and_integer_outcomes_are_numbers() -> None:
  positive = OUTCOMES > 0
  for fit in (jaxdm.fit_lasso, jaxdm.fit_datamodels):
    more = (0.05,) if fit is jaxdm.fit_lasso else ()
    for dtype in (bool, np.uint8, ">i8"):
      equal(fit(MASKS, positive.astype(dtype), *more), fit(MASKS, positive * 1.0, *more))


@pytest.mark.parametrize("kind", [*VECTORS, "PackedMasks", "csr"])
def test_one_mask_has_the_margins_of_one_model(kind) -> None:
  fit = jaxdm.fit_datamodels(MASKS, OUTCOMES, config=CONFIG)
  expected = MASKS[7].astype(float) @ fit.weights_tn.T + fit.intercepts_t
  if kind in VECTORS:
    found = fit.predict(VECTORS[kind](MASKS[7]))
    assert found.shape == (T,)
  else:  # Which are always of two axes.
    packed = training_sets.PackedMasks.of([MASKS[7:8]])
    rows = packed if kind == "PackedMasks" else scipy.sparse.csr_array(MASKS[7:8])
    [found] = fit.predict(rows)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_penalties_and_factors_broadcast() -> None:
  lam = np.array([0.1, 0.2, 0.3])
  factors = np.random.default_rng(1).uniform(0.5, 2, (T, N))

  def fit(lam, **options):
    return jaxdm.fit_lasso(MASKS, OUTCOMES, lam, **options)

  for same in (lam.tolist(), pd.Series(lam, index=[3, 2, 1]), lam.astype(">f4")):
    np.testing.assert_allclose(fit(same).weights, fit(lam).weights, atol=1e-5)
  for same in (0.1, np.float32(0.1), np.array(0.1), [0.1], np.full(T, 0.1)):
    np.testing.assert_allclose(fit(same).weights, fit(0.1).weights, atol=1e-5)
  whole = fit(0.1, penalty_factors=factors)
  for same in (factors.tolist(), pd.DataFrame(factors), lambda part: factors[part]):
    equal(fit(0.1, penalty_factors=same), whole)
  row = fit(0.1, penalty_factors=np.tile(factors[0], (T, 1)))
  for same in (factors[0], pd.Series(factors[0]), lambda part: factors[0].tolist()):
    equal(fit(0.1, penalty_factors=same), row)
  equal(fit(0.1, penalty_factors=2), fit(0.1, penalty_factors=np.full((T, N), 2.0)))
  for t in range(T):  # Not those of another target.
    alone = jaxdm.fit_lasso(MASKS, OUTCOMES[:, t], 0.1, penalty_factors=factors[t])
    np.testing.assert_allclose(alone.weights[0], whole.weights[t], atol=0.02)


def test_factors_of_a_tile_are_those_of_its_targets() -> None:
  # As many targets as columns.
  factors = np.random.default_rng(1).uniform(0.5, 2, (N, N))
  computed = ScoreRows((N, N), lambda targets: factors[targets])
  part = slice(2, 5)
  for given in (factors, factors.tolist(), computed, lambda part: factors[part]):
    found = tiling.rows_of("v", given, part, (N, N))
    np.testing.assert_array_equal(found, factors[2:5])
  for given in (factors[3], pd.Series(factors[3]), lambda part: factors[3]):
    found = tiling.rows_of("v", given, part, (N, N))
    np.testing.assert_array_equal(found, [factors[3]] * 3)
  np.testing.assert_array_equal(tiling.rows_of("v", 2, part, (N, N)), np.full((3, N), 2))


def test_priors_broadcast_as_factors_do(tmp_path) -> None:
  def fit(prior):
    """In a folder, which holds what a fit depends on."""
    return jaxdm.fit_datamodels(
      MASKS, OUTCOMES, config=CONFIG, candidates={"": prior}, folder=tmp_path
    )

  row = np.random.default_rng(1).uniform(0.5, 2, N)
  rows = np.tile(row, (T, 1))
  expected = fit(priors.Prior(rows, rows))
  for given in (row, row.tolist(), pd.Series(row), lambda part: row):
    equal(fit(priors.Prior(given, given)), expected)
  computed = ScoreRows((T, N), lambda targets: rows[targets])
  equal(fit(priors.Prior(rows, computed)), expected)
  with pytest.raises(ValueError, match="holds parts of another fit"):
    fit(priors.Prior(row, row[::-1]))


WRONG = [
  ({"lam": [0.1, 0.2]}, "lam must be a number or have shape [t] = (3,), got (2,)"),
  ({"lam": np.nan}, "lam must be >= 0 and finite, got nan"),
  ({"lam": [0.1, -1, 0.1]}, "lam must be >= 0 and finite, got -1.0"),
  ({"lam": None}, "lam must be >= 0 and finite, got nan"),
  ({"lam": 1j}, "lam must hold real numbers, got dtype complex128"),
  ({"penalty_factors": np.ones(8)}, "penalty_factors must have shape [t, n] = (3, 9) or"),
  ({"penalty_factors": np.ones((4, 9))}, "penalty_factors must have shape [t, n] = (3,"),
  ({"penalty_factors": np.ones((1, 9))}, "penalty_factors must have shape [t, n] = (3,"),
  ({"penalty_factors": lambda p: np.ones((2, 9))}, "penalty_factors must have shape [t,"),
  ({"penalty_factors": [-1] * 9}, "penalty_factors must be >= 0 and finite, got -1"),
  ({"penalty_factors": np.nan}, "penalty_factors must be finite"),
  ({"penalty_factors": "all"}, "penalty_factors must hold real numbers, got dtype <U3"),
  ({"tile": 0}, "tile must be an integer >= 1, got 0"),
  ({"tile": -2}, "tile must be an integer >= 1, got -2"),
  ({"tile": 1.5}, "tile must be an integer >= 1, got 1.5"),
  ({"tile": np.nan}, "tile must be an integer >= 1, got nan"),
  ({"tile": "all"}, "tile must be an integer >= 1, got 'all'"),
  ({"form": "row"}, "form must be gram, rows or bits, got 'row'"),
  ({"max_steps": -1}, "max_steps must be an integer >= 0, got -1"),
  ({"max_steps": 1.5}, "max_steps must be an integer >= 0, got 1.5"),
  ({"tol": np.nan}, "tol must be positive, got nan"),
  ({"outcomes": np.zeros(59)}, "masks have 60 rows but outcomes have 59"),
  ({"outcomes": 3.0}, "outcomes must be a matrix [m, t] or a vector [m], got shape ()"),
  (
    {"outcomes": np.zeros((60, 3, 1))},
    "outcomes must be a matrix [m, t] or a vector [m]",
  ),
  ({"masks": MASKS[0]}, "masks must be a matrix [m, n], got shape (9,)"),
  (
    {"sample_weight": np.ones(59)},
    "sample_weight must have shape [m] = (60,), got (59,)",
  ),
  ({"sample_weight": np.ones((60, 1))}, "sample_weight must have shape [m] = (60,), got"),
  ({"sample_weight": np.zeros(60)}, "sample_weight must not be 0 in all 60 rows"),
  (
    {"sample_weight": [1] * 59 + [-1]},
    "sample_weight must be >= 0 and finite, got -1.0 ",
  ),
  (
    {"sample_weight": [np.nan] * 60},
    "sample_weight must be >= 0 and finite, got nan in ",
  ),
  ({"sample_weight": np.inf}, "sample_weight must be >= 0 and finite, got inf in row 0"),
  ({"sample_weight": ["a"] * 60}, "sample_weight must hold real numbers, got dtype <U1"),
]


@pytest.mark.parametrize("given,message", WRONG, ids=lambda value: str(value)[:40])
def test_what_fit_lasso_cannot_use_is_refused_in_one_line(given, message) -> None:
  arguments = {"masks": MASKS, "outcomes": OUTCOMES, "lam": 0.1} | given
  with pytest.raises(ValueError) as caught:
    jaxdm.fit_lasso(**arguments)
  assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


WRONG_OF_DATAMODELS = [
  *((given, message) for given, message in WRONG if "sample_weight" in given),
  *((given, message) for given, message in WRONG if "tile" in given or "form" in given),
  ({"masks": MASKS[0]}, "masks must be a matrix [m, n], got shape (9,)"),
  ({"masks": MASKS * 0.5}, "masks must be bool, or numbers 0 and 1, got 0.5 in row 0"),
  (
    {"masks": scipy.sparse.csr_array(MASKS * 2)},
    "masks must be bool, or numbers 0 and 1, got 2 in row 0",
  ),
  ({"margins": OUTCOMES[:59, 0]}, "masks have 60 rows, margins 59"),
  ({"margins": [["a"]] * 60}, "margins must hold real numbers, got dtype <U1"),
  ({"margins": [np.nan] * 60}, "margins of 60 models are not finite: rows 0, 1"),
  (
    {"margins": OUTCOMES * 1e45},
    "margins must be at most 1e+30 in size and differ by 1e",
  ),
  (
    {"margins": OUTCOMES * 1e-60},
    "margins must be at most 1e+30 in size and differ by 1",
  ),
  ({"margins": OUTCOMES * [1, 1e-60, 1]}, "margins must be at most 1e+30 in size and di"),
  ({"candidates": [priors.Prior()]}, "candidates must map names to Prior, got list"),
  ({"candidates": {"x": 0}}, "candidates must map names to Prior, got int as 'x'"),
  (
    {"candidates": {"": priors.Prior(np.ones(8))}},
    "factors must have shape [t, n] = (3, 9) or [n] = (9,), got (8,)",
  ),
  ({"candidates": {"": priors.Prior(-1)}}, "factors must be >= 0 and finite, got -1"),
  (
    {"candidates": {"": priors.Prior(offset=np.ones((9, 3)))}},
    "offset must have shape [t, n] = (3, 9) or [n] = (9,), got (9, 3)",
  ),
  ({"candidates": {"": priors.Prior(offset=[np.inf] * 9)}}, "offset must be finite"),
]


@pytest.mark.parametrize(
  "given,message", WRONG_OF_DATAMODELS, ids=lambda value: str(value)[:40]
)
def test_what_fit_datamodels_cannot_use_is_refused_in_one_line(given, message) -> None:
  arguments = {"masks": MASKS, "margins": OUTCOMES} | given
  masks, margins = arguments.pop("masks"), arguments.pop("margins")
  with pytest.raises(ValueError) as caught:
    jaxdm.fit_datamodels(masks, margins, **arguments)
  assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize("unit", [2.0**90, 2.0**-90])
def test_margins_in_units_that_float32_holds_give_weights_in_these_units(unit) -> None:
  expected = jaxdm.fit_datamodels(MASKS, OUTCOMES, config=CONFIG).weights_tn
  found = jaxdm.fit_datamodels(MASKS, OUTCOMES * unit, config=CONFIG).weights_tn
  np.testing.assert_allclose(found / unit, expected, rtol=1e-6)
  constant = np.concatenate([OUTCOMES, 0 * OUTCOMES[:, :1] + 1e-60], axis=1)
  assert (jaxdm.fit_datamodels(MASKS, constant, config=CONFIG).weights_tn[3] == 0).all()


def test_predictions_of_other_masks_are_refused_in_one_line() -> None:
  fit = jaxdm.fit_datamodels(MASKS, OUTCOMES, config=CONFIG)
  names = [field.name for field in dataclasses.fields(fit)]
  before = {name: getattr(fit, name).copy() for name in names}
  for call, message in [
    (
      lambda: fit.predict(np.ones(8)),
      "masks must be [m, n] with n = 9 as in the weights",
    ),
    (lambda: fit.predict(np.ones((2, 8))), "masks must be [m, n] with n = 9 as in the"),
    (lambda: fit.predict(1), "masks must be [m, n] with n = 9 as in the weights, got sh"),
    (lambda: fit.predict("a"), "masks must hold real numbers, got dtype <U1"),
    (lambda: fit.evaluate(MASKS[0], OUTCOMES[:1]), "masks must be a matrix [m, n], got"),
    (
      lambda: fit.evaluate(MASKS, OUTCOMES[:, 0]),
      "predictions and margins must have the",
    ),
    (lambda: fit.evaluate(MASKS, 0), "margins must be a matrix [m, t] or a vector [m], "),
  ]:
    with pytest.raises(ValueError) as caught:
      call()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
  for name, value in before.items():
    np.testing.assert_array_equal(getattr(fit, name), value)


def test_the_row_that_is_not_finite_is_named_whichever_block_it_is_in(
  monkeypatch,
) -> None:
  monkeypatch.setattr(matrices, "BLOCK_BYTES", 8 * N * 5)  # Five rows a block.
  masks = MASKS.astype(float)
  masks[33, 4] = np.nan
  masks[2] = np.inf
  counts = ~np.isin(np.arange(M), [2, 7, 31])  # Rows that do not are not read.
  with pytest.raises(ValueError, match="masks must be finite, and are not in row 33$"):
    jaxdm.fit_lasso(masks, OUTCOMES, 0.1, sample_weight=counts)

import numpy as np
import pytest
import scipy.stats
from sklearn import linear_model

from jaxdm import datamodels, quality

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(4, 30)) * (RNG.random((4, 30)) < 0.25)


def models(m: int, noise: float = 0.3, seed: int = 0):
  rng = np.random.default_rng(seed)
  masks = rng.random((m, 30)) < 0.5
  return masks, (masks @ WEIGHTS.T + 0.7 + noise * rng.normal(size=(m, 4))).astype(
    np.float32
  )


def test_planted_weights_come_back_in_the_zero_one_basis() -> None:
  fit = datamodels.fit_datamodels(*models(2000))
  np.testing.assert_allclose(fit.weights_tn, WEIGHTS, atol=0.06)
  np.testing.assert_allclose(fit.intercepts_t, 0.7, atol=0.15)
  assert fit.gap_t.max() <= datamodels.FitConfig().tol
  for t in range(4):
    assert fit.top(t, 1)[0] == WEIGHTS[t].argmax()


def test_the_choice_of_lambda_equals_scikit_learns_on_the_same_split() -> None:
  masks, margins = models(200, noise=2.0)
  config = datamodels.FitConfig(num_lambdas=12, path_tol=1e-6, patience=12)
  fit = datamodels.fit_datamodels(masks, margins, config=config)
  from jaxdm import prng

  order = prng.generator_for(0, "validation").permutation(200)
  fit_rows, check_rows = order[40:], order[:40]
  x, y = masks.astype(float), margins
  top = np.abs((x - x.mean(0)).T @ (y - y.mean(0))).max(0) / len(x)
  x, y = masks[fit_rows].astype(float), margins[fit_rows]
  for t in range(4):
    grid = top[t] * np.geomspace(1, config.lambda_min_ratio, 12)
    errors = []
    for lam in grid:
      peer = linear_model.Lasso(alpha=lam, tol=1e-8, max_iter=50_000).fit(x, y[:, t])
      errors.append(
        np.mean((peer.predict(masks[check_rows]) - margins[check_rows, t]) ** 2)
      )
    np.testing.assert_allclose(fit.lambdas_t[t], grid[int(np.argmin(errors))], rtol=1e-4)


def test_held_out_models_choose_the_better_penalty_factors() -> None:
  informed = np.where(WEIGHTS != 0, 0.2, 2.0)
  masks, margins = models(200, noise=1.0)
  for order in (("ones", "informed"), ("informed", "ones")):
    factors = {"ones": np.ones((4, 30)), "informed": informed}
    lines: list[str] = []
    fit = datamodels.fit_datamodels(
      masks,
      margins,
      config=datamodels.FitConfig(folds=5),
      penalty_factors={name: factors[name] for name in order},
      report=lines.append,
    )
    assert order[fit.choice_t[0]] == "informed"
    assert sum("validation R2" in line for line in lines) == 2


def test_lds_and_pooled_correlation_equal_scipys() -> None:
  fit = datamodels.fit_datamodels(*models(300, noise=2.0))
  masks, margins = models(150, noise=2.0, seed=1)
  found = fit.evaluate(masks, margins)
  predicted = fit.predict(masks)
  spearman = [scipy.stats.spearmanr(predicted[:, t], margins[:, t])[0] for t in range(4)]
  np.testing.assert_allclose(found.lds_t, spearman, atol=1e-6)
  np.testing.assert_allclose(found.lds.estimate, np.mean(spearman), atol=1e-6)
  pearson = scipy.stats.pearsonr(predicted.ravel(), margins.ravel())[0]
  np.testing.assert_allclose(found.pooled_correlation.estimate, pearson, atol=1e-5)
  assert found.lds.low < found.lds.estimate < found.lds.high
  assert found.num_models == 150


def test_the_lds_interval_covers_fresh_estimates() -> None:
  fit = datamodels.fit_datamodels(*models(300, noise=2.0))
  low, high = fit.evaluate(*models(200, noise=2.0, seed=1))[0][1:]
  fresh = [fit.evaluate(*models(2000, noise=2.0, seed=s)).lds.estimate for s in (2, 3)]
  assert low < np.mean(fresh) < high


def test_a_constant_prediction_scores_zero_and_not_nan() -> None:
  a = np.column_stack([np.zeros(5), np.arange(5)])
  np.testing.assert_array_equal(
    quality.columnwise_spearman(a, np.column_stack([np.arange(5)] * 2)), [0, 1]
  )


def test_saved_datamodels_load_as_they_were(tmp_path) -> None:
  fit = datamodels.fit_datamodels(*models(100))
  fit.save(tmp_path / "fit")
  again = datamodels.Datamodels.load(tmp_path / "fit")
  for name, value in vars(fit).items():
    np.testing.assert_array_equal(getattr(again, name), value)
  with pytest.raises(ValueError):
    fit.save(tmp_path / "fit")
  fit.save(tmp_path / "fit", overwrite=True)
  with pytest.raises(FileNotFoundError, match="no fitted datamodels"):
    datamodels.Datamodels.load(tmp_path / "none")


def test_bad_input_is_named() -> None:
  masks, margins = models(40)
  bad = margins.copy()
  bad[7, 1] = np.inf
  for a, b, message in [
    (masks[1:], margins, "39 rows, margins 40"),
    (masks * 2, margins, "0 or 1"),
    (masks, bad, "1 models are not finite: rows 7"),
    (masks[:3], margins[:3], "too few"),
    (masks[0], margins, r"\[m, n\]"),
  ]:
    with pytest.raises(ValueError, match=message):
      datamodels.fit_datamodels(a, b)

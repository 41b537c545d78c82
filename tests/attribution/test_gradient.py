"""Gradients, and the three methods made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.flatten_util import ravel_pytree
from sklearn import linear_model

from jaxdm import prng, training_sets
from jaxdm.attribution import gradient
from jaxdm.attribution.label_flip_scores import changes
from jaxdm.brittleness import label_flips
from jaxdm.storage import step_checkpoints
from jaxdm.training import fleet, output_gradients, train
from jaxdm.training import recipe as recipe_lib


def test_log_odds_are_those_of_the_softmax() -> None:
  logits = np.array([2.0, -1.0, 0.5])
  p = np.exp(logits) / np.exp(logits).sum()
  for label in range(3):
    found = output_gradients.log_odds(jnp.asarray(logits), jnp.asarray(label))
    np.testing.assert_allclose(found, np.log(p[label] / (1 - p[label])), rtol=1e-5)


def test_projections_keep_inner_products_in_expectation() -> None:
  rng = np.random.default_rng(0)
  a, b = jnp.asarray(rng.normal(size=(2, 100)), jnp.float32)

  @jax.vmap
  def product(key):
    signs = output_gradients.random_signs(key, 100)
    one, two = (output_gradients.project(x, signs, 16) for x in (a, b))
    return one @ two

  found = product(jax.random.split(jax.random.key(0), 4000))
  error = (a @ a) ** 0.5 * (b @ b) ** 0.5 / 16**0.5
  np.testing.assert_allclose(found.mean(), a @ b, atol=4 * error / 4000**0.5)
  np.testing.assert_allclose(found.std(), error, rtol=0.15)
  signs = output_gradients.random_signs(jax.random.key(1), 100)
  whole = output_gradients.project(a, signs, 128)
  np.testing.assert_allclose(whole @ whole, a @ a, rtol=1e-5)


def test_projections_keep_entries_of_one_channel_apart() -> None:
  """Gradients of few channels of many have as small errors as those of all."""
  rng = np.random.default_rng(0)
  a, b = np.zeros((2, 32 * 200), np.float32)
  a[::32], b[::32] = rng.normal(size=(2, 200))

  @jax.vmap
  def product(key):
    signs = output_gradients.random_signs(key, len(a))
    one, two = (output_gradients.project(x, signs, 64) for x in (a, b))
    return one @ two

  found = product(jax.random.split(jax.random.key(0), 1000))
  error = np.linalg.norm(a) * np.linalg.norm(b) / 64**0.5
  np.testing.assert_allclose(found.mean(), a @ b, atol=4 * error / 1000**0.5)
  assert found.std() < 1.2 * error


def test_a_fleets_gradients_are_those_of_each_model_alone(
  tiny_config, tiny_images
) -> None:
  images, labels = tiny_images
  models = fleet.Fleet(tiny_config, images, 2, fleet.Speed(chunk=2), gradient_dim=2**15)
  masks = np.ones((3, 24), bool)
  keys = prng.keys_for(0, [prng.Stream("m", i) for i in range(3)])
  variables = models.train(training_sets.from_masks(masks, labels), keys)
  odds, grads = map(np.asarray, models.gradients(variables, images, labels, keys))
  recipe = recipe_lib.make(tiny_config, num_classes=2, input_shape=images.shape[1:])

  def output(params, mine):
    logits, _ = train.predict(recipe, mine | {"params": params}, images)
    return jnp.log(jax.nn.softmax(logits)[jnp.arange(24), labels]) - jnp.log(
      jax.nn.softmax(logits)[jnp.arange(24), 1 - labels]
    )

  values, jacobian = jax.jit(output), jax.jit(jax.jacobian(output))
  for i in models.places[:3]:
    mine = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], variables)
    np.testing.assert_allclose(odds[i], values(mine["params"], mine), atol=1e-4)
    rows = jacobian(mine["params"], mine)
    dense = [ravel_pytree(jax.tree.map(lambda x, j=j: x[j], rows))[0] for j in (0, 9)]
    dense = np.stack(dense)
    assert dense.shape[1] <= 2**15  # So that the projection loses nothing.
    some = np.asarray(grads[i])[[0, 9]]
    np.testing.assert_allclose(some @ some.T, dense @ dense.T, rtol=1e-3)


def test_training_can_be_seen_half_way(tiny_config, tiny_images, train_alone) -> None:
  images, labels = tiny_images
  models = fleet.Fleet(tiny_config, images, 2, fleet.Speed(chunk=2))
  sets = training_sets.from_masks(np.ones((1, 24), bool), labels)
  keys = prng.keys_for(0, [prng.Stream("m", 0)])
  half = models.train(sets, keys, until=0.5)
  row = jax.tree.map(lambda x: x[0], sets)
  steps = int(tiny_config.num_steps(24)) // 2
  alone, _ = train_alone(row, keys[0], steps)
  for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(alone), strict=True):
    np.testing.assert_allclose(a[0], b, atol=1e-5)


def test_projections_belong_to_models_and_not_to_rows(tiny_config, tiny_images) -> None:
  images, labels = tiny_images
  sets = training_sets.from_masks(np.ones((3, 24), bool), labels)
  keys = prng.keys_for(0, [prng.Stream("m", i) for i in range(3)])
  found = []
  for chunk in (2, 4):
    models = fleet.Fleet(
      tiny_config, images, 2, fleet.Speed(chunk=chunk), gradient_dim=16
    )
    variables, rows = models.train(sets, keys), models.places[:3]
    _, of_labels = models.gradients(variables, images, labels, keys)
    of_classes = models.class_gradients(variables, images[:4], keys)
    found.append([np.asarray(of)[rows] for of in (of_labels, of_classes)])
  for one, two in zip(*found, strict=True):
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4 * np.abs(one).max())


def test_gradients_of_rows_without_a_model_are_not_computed(
  tiny_config, tiny_images
) -> None:
  images, labels = tiny_images
  sets = training_sets.from_masks(np.ones((1, 24), bool), labels)
  keys = prng.keys_for(0, [prng.Stream("m", 0)])
  models = fleet.Fleet(tiny_config, images, 2, fleet.Speed(chunk=3), gradient_dim=16)
  variables, [row] = models.train(sets, keys), models.places[:1]
  for found in (
    models.gradients(variables, images, labels, keys)[1],
    models.class_gradients(variables, images, keys),
  ):
    has_numbers = np.abs(np.asarray(found)).max(axis=(1, *range(2, found.ndim))) > 0
    assert has_numbers.tolist() == [i == row for i in range(models.rows)]


def test_stops_on_the_way_change_no_bit(tiny_config, tiny_images, tmp_path) -> None:
  images, labels = tiny_images
  sets = training_sets.from_masks(np.ones((2, 24), bool), labels)
  keys = prng.keys_for(0, [prng.Stream("m", i) for i in range(2)])
  moments = [0.1, 0.5, 1.0]
  for checkpoints in (
    None,
    step_checkpoints.Checkpoints(tmp_path, 1e-9),
  ):  # Writes every step.
    models = fleet.Fleet(
      tiny_config, images, 2, fleet.Speed(chunk=2), checkpoints=checkpoints
    )
    stops = list(models.train_through(sets, keys, moments))
    models.settle()
    assert len(stops) == 3
    for moment, found in zip(moments, stops, strict=True):
      direct = models.train(sets, keys, until=moment)
      for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(direct), strict=True):
        np.testing.assert_array_equal(a, b)
      models.settle()


def test_a_state_of_before_a_stop_is_not_taken_for_one_of_after(
  tiny_config, tiny_images, tmp_path, monkeypatch
) -> None:
  """A run without stops was killed early; one with stops goes on, by its own states."""
  images, labels = tiny_images
  sets = training_sets.from_masks(np.ones((2, 24), bool), labels)
  keys = prng.keys_for(0, [prng.Stream("m", i) for i in range(2)])
  kept, keep = [], step_checkpoints.Checkpoints.write_state

  def killed(self, name: str, step: int, state) -> None:
    keep(self, name, step, state)
    kept.append(step)
    if step > 2:
      raise KeyboardInterrupt

  def models() -> fleet.Fleet:
    checkpoints = step_checkpoints.Checkpoints(tmp_path, 1e-9)
    return fleet.Fleet(
      tiny_config, images, 2, fleet.Speed(chunk=2), checkpoints=checkpoints
    )

  with monkeypatch.context() as patch:
    patch.setattr(step_checkpoints.Checkpoints, "write_state", killed)
    with pytest.raises(KeyboardInterrupt):
      models().train(sets, keys)
  assert kept[-1] < 0.9 * int(tiny_config.num_steps(24))
  *_, found = models().train_through(sets, keys, [0.9, 1.0])
  whole = fleet.Fleet(tiny_config, images, 2, fleet.Speed(chunk=2))
  direct = whole.train(sets, keys)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(direct), strict=True):
    np.testing.assert_array_equal(a, b)


def fit_softmax(x: np.ndarray, labels: np.ndarray, k: int, strength: float) -> np.ndarray:
  """Ridge-penalised softmax regression by Newton's method, float64[k, d]."""
  n, d = x.shape
  w, one_hot = np.zeros((k, d)), np.eye(k)[labels]
  for _ in range(30):
    p = np.exp(x @ w.T)
    p /= p.sum(axis=1, keepdims=True)
    slope = strength * w + (p - one_hot).T @ x
    if np.abs(slope).max() < 1e-12 * n:
      return w
    spread = p[:, :, None] * np.eye(k) - p[:, :, None] * p[:, None]
    hessian = np.einsum("njk,nd,ne->jdke", spread, x, x, optimize=True)
    hessian = hessian.reshape(k * d, k * d) + strength * np.eye(k * d)
    w = w - np.linalg.solve(hessian, slope.ravel()).reshape(k, d)
  raise AssertionError("Newton's method has not converged")


def fit_logistic(x: np.ndarray, signs: np.ndarray, strength: float) -> np.ndarray:
  """The same of two classes, with one row of weights, penalised as such."""
  # Two rows that differ by w have half of its norm each.
  one, other = fit_softmax(x, (signs > 0).astype(int), 2, 2 * strength)
  return other - one


@pytest.mark.parametrize("k", [2, 3])
def test_newtons_method_fits_as_scikit_learn_does(k) -> None:
  rng = np.random.default_rng(0)
  x = rng.normal(size=(60, 5))
  labels = (x[:, :k] + rng.normal(size=(60, k))).argmax(axis=1)
  for strength in (0.1, 3.0):
    peer = linear_model.LogisticRegression(
      C=1 / strength, fit_intercept=False, tol=1e-10, max_iter=10_000
    )
    expected = peer.fit(x, labels).coef_
    if k == 2:
      found = fit_logistic(x, 2 * labels - 1, strength)[None]
    else:
      found = fit_softmax(x, labels, k, strength)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def logistic(strength: float, n: int = 60, seed: int = 0):
  """A ridge-penalised logistic regression, its gradients, and how it is fitted."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(n, 5))
  signs = np.where(x @ rng.normal(size=5) + rng.normal(size=n) > 0, 1, -1)

  def fit(rows: np.ndarray) -> np.ndarray:
    return fit_logistic(x[rows], signs[rows], strength)

  targets, target_signs = rng.normal(size=(4, 5)), np.array([1, -1, 1, 1])
  weights = fit(np.arange(n))
  phi_nd, phi_td = x * signs[:, None], targets * target_signs[:, None]
  as_float = [jnp.asarray(a, jnp.float32) for a in (phi_nd, phi_td, phi_nd @ weights)]
  return gradient.Gradients(*as_float), fit, phi_td


def left_out(fit, phi_td: np.ndarray, n: int) -> np.ndarray:
  """What each example adds to each target, by fitting without it."""
  whole = fit(np.arange(n))
  without = np.array([fit(np.delete(np.arange(n), i)) for i in range(n)])
  return phi_td @ (whole - without).T


def test_influence_is_leaving_one_out_to_first_order() -> None:
  strength = 1.0
  model, fit, phi_td = logistic(strength)
  odds = np.asarray(model.odds_n, np.float64)
  p = 1 / (1 + np.exp(-odds))
  scale = np.mean(p * (1 - p) * (np.asarray(model.train_nd) ** 2).sum(axis=1))
  rows_nd = gradient.influence(model, strength / scale)
  scores_tn = np.asarray(gradient.scores(rows_nd, model.target_td))
  exact_tn = left_out(fit, phi_td, len(odds))
  for t in range(4):
    assert np.corrcoef(scores_tn[t], exact_tn[t])[0, 1] > 0.98
    slope = scores_tn[t] @ exact_tn[t] / (exact_tn[t] @ exact_tn[t])
    assert 0.7 < slope < 1.05  # The second order is left out, and enlarges effects.


def test_relabelling_is_refitting_with_the_other_label_to_first_order() -> None:
  rng = np.random.default_rng(0)
  strength, n = 3.0, 80
  x = rng.normal(size=(n, 5))
  signs = np.where(x @ rng.normal(size=5) + rng.normal(size=n) > 0, 1, -1)

  whole = fit_logistic(x, signs, strength)
  flips = np.where(np.eye(n, dtype=bool), -signs, signs)
  refits = np.array([fit_logistic(x, y, strength) for y in flips])
  exact_n = refits @ -x[0] + whole @ x[0]
  phi = x * signs[:, None]
  p = 1 / (1 + np.exp(-phi @ whole))
  scale = np.mean(p * (1 - p) * (phi**2).sum(axis=1))
  as_float = [jnp.asarray(a, jnp.float32) for a in (phi, x[:1], phi @ whole)]
  # Logits w'x of the class +1 and 0 of the class -1.
  logits_nkd = jnp.asarray(np.stack([0 * x, x], axis=1), jnp.float32)
  labels = jnp.asarray(signs > 0, jnp.int32)
  model, rows = gradient.Gradients(*as_float), changes(logits_nkd, labels)
  newton_td = gradient.newton_targets(model, strength / scale)
  scores = np.asarray(gradient.scores(rows, newton_td)[0])
  assert np.corrcoef(scores, exact_n)[0, 1] > 0.98
  assert 0.7 < (scores @ exact_n) / (exact_n @ exact_n) < 1.3


def test_relabelling_among_three_classes_ranks_as_refitting_does() -> None:
  rng = np.random.default_rng(0)
  n, k, strength = 60, 3, 3.0
  x = rng.normal(size=(n, 4))
  labels = (x @ rng.normal(size=(4, k)) + rng.normal(size=(n, k))).argmax(axis=1)

  def odds(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every example as a target, and the weights."""
    weights = fit_softmax(x, y, k, strength)
    p = scipy.special.softmax(x @ weights.T, axis=1)[np.arange(n), labels]
    return np.log(p / (1 - p)), weights

  whole, weights = odds(labels)
  logits_nkd = np.einsum("kj,nd->nkjd", np.eye(k), x).reshape(n, k, -1)
  rows = jax.vmap(jax.grad(output_gradients.log_odds))(jnp.asarray(x @ weights.T), labels)
  phi_nd = np.einsum("nk,nkd->nd", np.asarray(rows), logits_nkd)
  p = 1 / (1 + np.exp(-whole))
  scale = np.mean(p * (1 - p) * (phi_nd**2).sum(axis=1))
  model = gradient.Gradients(*(jnp.asarray(a) for a in (phi_nd, phi_nd[:4], whole)))
  rows = changes(logits_nkd, labels)
  assert rows.shape == (2 * n, 3 * 4)
  newton_td = gradient.newton_targets(model, strength / scale)
  scores_tc = np.asarray(gradient.scores(rows, newton_td))
  found_tnk = np.zeros((4, n, k))
  for i, label in enumerate(labels):
    others = [c for c in range(k) if c != label]
    found_tnk[:, i, others] = scores_tc[:, 2 * i : 2 * i + 2]
  exact_tnk = np.zeros((4, n, k))
  for i in range(n):
    for c in set(range(k)) - {int(labels[i])}:
      flipped = labels.copy()
      flipped[i] = c
      exact_tnk[:, i, c] = (whole - odds(flipped)[0])[:4]
  others = np.arange(k) != labels[:, None]
  for t in range(4):
    assert np.corrcoef(found_tnk[t][others], exact_tnk[t][others])[0, 1] > 0.9
  best = label_flips.best_class(found_tnk, labels)
  assert (best != labels).all()
  first, second = (
    np.take_along_axis(exact_tnk, b[..., None], axis=-1)
    for b in (best, 3 - labels - best)
  )
  assert (first > second).mean() > 0.8


def test_gradients_of_logits_make_those_of_log_odds(tiny_config, tiny_images) -> None:
  images, labels = tiny_images
  models = fleet.Fleet(tiny_config, images, 2, fleet.Speed(chunk=2), gradient_dim=2**15)
  keys = prng.keys_for(0, [prng.Stream("m", 0)])
  sets = training_sets.from_masks(np.ones((1, 24), bool), labels)
  variables = models.train(sets, keys)
  _, grads = map(np.asarray, models.gradients(variables, images, labels, keys))
  logits_bkd = np.asarray(models.class_gradients(variables, images, keys)[0])
  assert logits_bkd.shape == (24, 2, 2**15)
  logits, _ = models.predict(variables, images)
  rows = jax.vmap(jax.grad(output_gradients.log_odds))(logits[0], labels)
  made = np.einsum("bk,bkd->bd", np.asarray(rows), logits_bkd)
  np.testing.assert_allclose(made, np.asarray(grads[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_trak_is_its_formula_and_ranks_as_leaving_one_out_does(seed) -> None:
  model, fit, phi_td = logistic(1.0, n=100, seed=seed)
  phi = np.asarray(model.train_nd, np.float64)
  wrong = 1 / (1 + np.exp(np.asarray(model.odds_n, np.float64)))
  damping = 1e-6
  gram = phi.T @ phi
  gram += damping * np.mean((phi**2).sum(axis=1)) * np.eye(5)
  expected = phi_td @ np.linalg.inv(gram) @ phi.T
  found = np.asarray(gradient.scores(gradient.trak(model, damping), model.target_td))
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
  exact_tn = left_out(fit, phi_td, len(phi))
  for t in range(4):
    # Without the Hessian's weights p (1 - p) it is worse where these differ a lot: a
    # ridge of .01 leaves correlations from 0 to .8.
    assert scipy.stats.spearmanr((found * wrong)[t], exact_tn[t])[0] > 0.75


def test_tracin_is_what_one_step_on_an_example_adds() -> None:
  model, _, _ = logistic(1.0)
  phi, targets = np.asarray(model.train_nd), np.asarray(model.target_td)
  weights = np.linalg.lstsq(phi, np.asarray(model.odds_n), rcond=None)[0]
  found = np.asarray(gradient.scores(gradient.tracin(model), model.target_td))
  for n in (0, 17):
    loss = lambda w, n=n: jnp.logaddexp(0.0, -phi[n] @ w)  # noqa: E731
    step = -np.asarray(jax.grad(loss)(jnp.asarray(weights)))
    np.testing.assert_allclose(found[:, n], targets @ step, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", [gradient.trak, gradient.influence])
def test_very_sure_models_make_no_nan(method) -> None:
  model, _, _ = logistic(1.0)
  assert np.isfinite(method(model._replace(odds_n=model.odds_n + 60), 0.5)).all()
  nothing = model._replace(train_nd=0 * model.train_nd)
  np.testing.assert_array_equal(method(nothing, 0.5), 0)

  rng = np.random.default_rng(0)
  arrays = rng.normal(size=(12, 90)), rng.normal(size=(5, 90)), np.full(12, 60.0)
  few = gradient.Gradients(*map(jnp.float32, arrays))
  scores_of = [
    np.asarray(gradient.scores(method(one, 0.5), one.target_td))
    for one in (few, gradient.in_examples(few))
  ]
  np.testing.assert_allclose(*scores_of, rtol=1e-3, atol=1e-4 * scores_of[0].std())


def test_weights_of_very_wrong_examples_do_not_vanish() -> None:
  odds = np.array([-80.0, -17, -3, 0, 3, 17, 80])
  empty = jnp.zeros((7, 1))
  found = gradient.newton_weights(gradient.Gradients(empty, empty, jnp.asarray(odds)))
  p = 1 / (1 + np.exp(-odds))
  expected = np.exp(-np.abs(odds) / 2) * np.maximum(p, 1 / (1 + np.exp(odds)))
  np.testing.assert_allclose(found, expected, rtol=1e-5)

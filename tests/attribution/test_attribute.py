"""Scores of several models, at several moments of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from jax.flatten_util import ravel_pytree
from sklearn.metrics import pairwise

import jaxdm
from jaxdm import training_sets
from jaxdm.attribution import full_data, gradient, label_flip_scores
from jaxdm.attribution.label_flip_scores import mean_scores, sum_scores
from jaxdm.training import train

N, MODELS, DAMPING = 24, 3, 0.3
MOMENTS = (1 / 3, 2 / 3, 1.0)


@pytest.fixture(scope="module")
def trainer() -> jaxdm.Trainer:
  """Trains linear models, whose gradients the projection only permutes."""
  dataset = jaxdm.load_dataset("fashion").take(["T-shirt", "shirt"], N // 2, 5)
  config = jaxdm.TrainConfig(epochs=6, batch_size=6, peak_learning_rate=0.05)
  return jaxdm.Trainer(dataset.downscaled(4), config, network="linear")


@pytest.fixture(scope="module")
def states(trainer) -> dict:
  """By moment, each model's float64 gradients of targets and examples, and log-odds."""
  fleet, labels = trainer.fleet, trainer.labels
  values = np.concatenate([trainer.target_values, fleet.values])
  both = np.concatenate([trainer.target_labels, labels])
  sets = training_sets.from_masks(np.ones((MODELS, N), bool), labels)
  keys = full_data.keys(trainer, 0, MODELS)

  def odds(params, variables):
    logits, _ = train.predict(fleet.recipe, variables | {"params": params}, values)
    own = jnp.take_along_axis(logits, both[:, None], axis=1)[:, 0]
    return 2 * own - logits.sum(axis=1)  # Of two classes.

  found = {}
  for moment in MOMENTS:
    variables = fleet.train(sets, keys, until=moment)
    found[moment] = []
    for i in fleet.places[:MODELS]:
      mine = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], variables)
      rows = jax.jacobian(odds)(mine["params"], mine)
      phi = jax.vmap(lambda row: ravel_pytree(row)[0])(rows)
      value = odds(mine["params"], mine)
      found[moment].append((np.asarray(phi, float), np.asarray(value, float)))
  return found


def influence(phi_bp: np.ndarray, odds_b: np.ndarray, t: int) -> np.ndarray:
  """Influence functions by their definition, float64[t, n]."""
  phi_np, p_n = phi_bp[t:], 1 / (1 + np.exp(-odds_b[t:]))
  hessian = np.einsum("np,n,nq->pq", phi_np, p_n * (1 - p_n), phi_np)
  hessian += DAMPING * np.trace(hessian) / len(phi_np) * np.eye(len(hessian))
  return phi_bp[:t] @ np.linalg.solve(hessian, (phi_np * (1 - p_n)[:, None]).T)


def trak(phi_bp: np.ndarray, odds_b: np.ndarray, t: int) -> np.ndarray:
  """TRAK without its factor 1 - p."""
  gram = phi_bp[t:].T @ phi_bp[t:]
  gram += DAMPING * np.trace(gram) / len(phi_bp[t:]) * np.eye(len(gram))
  return phi_bp[:t] @ np.linalg.solve(gram, phi_bp[t:].T)


@pytest.mark.parametrize("moments", [1, 3])
@pytest.mark.parametrize("method", ["influence", "trak"])
def test_scores_are_the_mean_over_moments_and_models(
  trainer, states, method, moments
) -> None:
  t = len(trainer.target_labels)
  formula = {"influence": influence, "trak": trak}[method]
  chosen = MOMENTS if moments == 3 else MOMENTS[-1:]
  parts = {m: [formula(*state, t) for state in states[m]] for m in chosen}
  size = {m: [np.sqrt((x**2).mean()) for x in parts[m]] for m in chosen}
  expected = np.mean(
    [x / s for m in chosen for x, s in zip(parts[m], size[m], strict=True)], axis=0
  )
  expected *= np.mean(size[1.0])
  if method == "trak":
    expected *= np.mean([1 / (1 + np.exp(odds[t:])) for _, odds in states[1.0]], axis=0)
  found = jaxdm.attribution_scores(
    trainer, [method], MODELS, damping=DAMPING, moments=moments
  )[method]
  np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4 * expected.std())


@pytest.mark.parametrize("damping", [0.01, 0.2, 5.0])
@pytest.mark.parametrize("n, d", [(12, 90), (90, 12), (30, 30)])
def test_more_dimensions_than_examples_change_no_formula(n, d, damping) -> None:
  rng = np.random.default_rng(0)
  phi, weights = rng.normal(size=(n, d)), rng.lognormal(size=n)
  left, targets = rng.normal(size=(7, d)), rng.normal(size=(5, d))
  model = gradient.Gradients(*map(jnp.float32, (phi, targets, np.zeros(n))))
  found = gradient.solve(model, jnp.float32(weights), jnp.float32(left), damping)
  rows = phi * weights[:, None]
  matrix = rows.T @ rows + damping * (rows**2).sum() / n * np.eye(d)
  expected = np.linalg.solve(matrix, left.T)
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.std())

  fewer, factors = gradient.in_examples(model), rng.normal(size=(7, n))
  sums = jnp.float32(factors if n < d else factors @ phi)
  assert fewer.train_nd.shape[1] == sums.shape[1] == min(n, d)
  found = gradient.solve(fewer, jnp.float32(weights), sums, damping)
  expected = targets @ np.linalg.solve(matrix, (factors @ phi).T)
  scores = np.asarray(fewer.target_td) @ np.asarray(found)
  np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4 * expected.std())


@pytest.mark.parametrize("damping", [gradient.LEAST_DAMPING, 0.01, 0.2, 5.0])
@pytest.mark.parametrize("n, d", [(12, 90), (90, 12), (30, 30)])
def test_scores_may_be_solved_for_the_targets(n, d, damping) -> None:
  rng = np.random.default_rng(0)
  phi, odds, changes = rng.normal(size=(n, d)), rng.normal(size=n), np.eye(n)[:7] * 3
  targets = rng.normal(size=(5, d))
  model = gradient.Gradients(*map(jnp.float32, (phi, targets, odds)))
  rows = phi * np.sqrt(scipy.special.expit(odds) * scipy.special.expit(-odds))[:, None]
  matrix = rows.T @ rows + damping * (rows**2).sum() / n * np.eye(d)
  expected = targets @ np.linalg.solve(matrix, (changes @ phi).T)
  for one in (model, gradient.in_examples(model)):
    in_examples = one.gram_nn is not None
    left = jnp.float32(changes if in_examples else changes @ phi)
    found = gradient.scores(left, gradient.newton_targets(one, damping))
    # Float32's rounding times the condition: some 8 times 6e-8 was measured.
    tolerance = 1e-6 * np.linalg.cond(matrix) * expected.std()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_relabel_scores_are_means_over_moments_too(trainer, states) -> None:
  """Of two classes: influence functions without the factor 1 - p, on its scale."""
  targets = np.array([1, 4])
  found = [
    sum_scores(trainer, targets, start, size, damping=DAMPING, moments=3)
    for start, size in ((0, 2), (2, 1))
  ]
  scores = mean_scores(found)
  t, expected, units = len(trainer.target_labels), np.zeros((2, N)), []
  for moment in MOMENTS:
    for phi_bp, odds_b in states[moment]:
      phi = np.concatenate([phi_bp[:t][targets], phi_bp[t:]])
      odds = np.concatenate([odds_b[:t][targets], odds_b[t:]])
      made, wrong_n = influence(phi, odds, 2), 1 / (1 + np.exp(odds_b[t:]))
      size = np.sqrt((made**2).mean())
      expected += made / wrong_n / size / (3 * MODELS)
      units += [size] * (moment == 1)
  expected *= np.mean(units)
  rows = np.arange(N)
  np.testing.assert_array_equal(scores[:, rows, trainer.labels], 0)
  others = scores[:, rows, 1 - trainer.labels]
  np.testing.assert_allclose(others, expected, rtol=3e-3, atol=3e-4 * expected.std())


def test_relabel_scores_among_three_classes_are_their_formula() -> None:
  """The gradient of z_y - z_c for each other label, of a model at the end of training."""
  dataset = jaxdm.load_dataset("fashion").take(["T-shirt", "shirt", "coat"], 6, 3)
  config = jaxdm.TrainConfig(epochs=6, batch_size=6, peak_learning_rate=0.05)
  trainer = jaxdm.Trainer(dataset.downscaled(4), config, network="linear")
  fleet, labels, targets = trainer.fleet, trainer.labels, np.array([2, 7])
  n = len(labels)
  part = sum_scores(trainer, targets, 0, 1, damping=DAMPING, moments=1)
  found = mean_scores([part])

  sets = training_sets.from_masks(np.ones((1, n), bool), labels)
  variables = fleet.train(sets, full_data.keys(trainer, 0, 1))
  mine = jax.tree.map(lambda x: np.asarray(x)[fleet.places[0]], variables)
  values = np.concatenate([trainer.target_values[targets], fleet.values])
  both = np.concatenate([trainer.target_labels[targets], labels])

  def logits_of(params):
    return train.predict(fleet.recipe, mine | {"params": params}, values)[0]

  logits_bk = np.asarray(logits_of(mine["params"]), float)
  tree = jax.jacobian(logits_of)(mine["params"])
  leaves = [np.asarray(x, float).reshape(n + 2, 3, -1) for x in jax.tree.leaves(tree)]
  rows_bkp = np.concatenate(leaves, axis=2)
  p_bk = np.exp(logits_bk) / np.exp(logits_bk).sum(axis=1, keepdims=True)
  own = np.eye(3)[both]
  # The derivative of log p_y - log(1 - p_y) by the logits.
  doubt = 1 - (own * p_bk).sum(axis=1, keepdims=True)
  phi_bp = np.einsum("bk,bkp->bp", own - (1 - own) * p_bk / doubt, rows_bkp)
  phi_np, wrong_n = phi_bp[2:], doubt[2:, 0]
  hessian = np.einsum("np,n,nq->pq", phi_np, wrong_n * (1 - wrong_n), phi_np)
  hessian += DAMPING * np.trace(hessian) / n * np.eye(len(hessian))
  for i, label in enumerate(labels):
    change_kp = rows_bkp[2 + i, label] - rows_bkp[2 + i]
    expected = phi_bp[:2] @ np.linalg.solve(hessian, change_kp.T)
    np.testing.assert_allclose(found[:, i], expected, rtol=3e-3, atol=3e-3)
    assert not found[:, i, label].any()


def test_a_model_whose_gradients_overflow_is_left_out_there(trainer, monkeypatch) -> None:
  made, names = full_data.snapshots, ["influence", "trak", "tracin"]

  def broken(trainer, count, moments):
    for found in made(trainer, count, moments):
      if found[0].moment == 0.5:
        at = found[1].gradients
        found[1] = found[1]._replace(gradients=at._replace(train_nd=at.train_nd * np.inf))
      yield found

  whole = jaxdm.attribution_scores(trainer, names, MODELS, moments=2)
  monkeypatch.setattr(full_data, "snapshots", broken)
  scores = jaxdm.attribution_scores(trainer, names, MODELS, moments=2)
  for name in names:
    assert np.isfinite(scores[name]).all()
  # TRAK's of linear models are the same at all moments.
  for name in ("influence", "tracin"):
    alike = np.corrcoef(scores[name].ravel(), whole[name].ravel())[0, 1]
    assert 0.5 < alike < 0.9999


def test_root_mean_squares_do_not_cancel_where_examples_are_alike() -> None:
  """As many dimensions as examples, each with a large common part that cancels."""
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(300, 300))
  rows -= rows.mean(axis=1, keepdims=True)
  targets = 1e4 + rng.normal(size=(40, 300))
  expected = np.sqrt(np.mean((targets @ rows.T) ** 2))
  found = gradient.root_mean_square(jnp.float32(rows), jnp.float32(targets))
  np.testing.assert_allclose(found, expected, rtol=0.02)


def test_there_are_no_more_moments_than_steps(trainer) -> None:
  steps = full_data.most_moments(trainer)
  at_each = jaxdm.attribution_scores(trainer, ["influence"], 2, moments=steps)
  more = jaxdm.attribution_scores(trainer, ["influence"], 2, moments=3 * steps)
  np.testing.assert_array_equal(more["influence"], at_each["influence"])


@pytest.mark.parametrize("n", [40, 5])
@pytest.mark.parametrize("scale", [1e-25, 5e-20, 1.0, 1e12])
def test_root_mean_squares_are_those_of_all_scores(scale, n) -> None:
  rng = np.random.default_rng(0)
  rows, targets = rng.normal(size=(n, 7)) * scale, rng.normal(size=(9, 7))
  found = gradient.root_mean_square(jnp.float32(rows), jnp.float32(targets))
  np.testing.assert_allclose(found, np.sqrt(((targets @ rows.T) ** 2).mean()), rtol=1e-4)
  assert 0 < gradient.root_mean_square(jnp.zeros((3, 2)), jnp.ones((2, 2))) < 1e-30


@pytest.mark.parametrize(
  "wrong, message",
  [
    ({"moments": 0}, "^moments must be an integer >= 1, got 0"),
    ({"moments": 1.5}, "^moments must be an integer >= 1, got 1.5"),
    ({"damping": 0.0}, r"^damping must be in \[0.0001, 1e\+10\], got 0; with less"),
    ({"damping": 1e-300}, r"^damping must be .*, got 1e-300"),
    ({"damping": 1e300}, r"^damping must be .*, got 1e\+300"),
    ({"damping": np.inf}, r"^damping must be .*, got inf"),
    ({"damping": np.nan}, r"^damping must be .*, got nan"),
    ({"num_models": 1}, "^num_models must be an integer >= 2, got 1"),
    ({"num_models": -3}, "^num_models must be an integer >= 2, got -3"),
    ({"num_models": 2.5}, "^num_models must be an integer >= 2, got 2.5"),
  ],
)
def test_settings_that_cannot_work_are_refused(trainer, wrong, message) -> None:
  with pytest.raises(jaxdm.UserError, match=message):
    jaxdm.attribution_scores(trainer, ["influence"], **{"num_models": 2} | wrong)


@pytest.mark.parametrize("damping", [gradient.LEAST_DAMPING, gradient.MOST_DAMPING])
def test_scores_are_right_at_the_ends_of_the_range_of_damping(damping) -> None:
  rng = np.random.default_rng(0)
  n, d = 300, 1000
  phi, targets = rng.normal(size=(n, d)), rng.normal(size=(5, d))
  model = gradient.Gradients(*map(jnp.float32, (phi, targets, np.zeros(n))))
  at = gradient.in_examples(model)
  found = gradient.scores(gradient.trak(at, damping), at.target_td)
  mean = (phi**2).sum() / n
  factors = np.linalg.solve(phi @ phi.T + damping * mean * np.eye(n), phi @ targets.T)
  np.testing.assert_allclose(found, factors.T, rtol=0, atol=5e-3 * np.abs(factors).max())


def test_the_doubt_of_trak_is_that_of_models_that_converged(
  trainer, states, monkeypatch
) -> None:
  made, t = full_data.snapshots, len(trainer.target_labels)

  def diverged(*args):
    for found in made(*args):
      lost = found[1].outputs
      lost = lost._replace(logits_tk=lost.logits_tk * np.nan)
      found[1] = found[1]._replace(outputs=lost)
      yield found

  monkeypatch.setattr(full_data, "snapshots", diverged)
  [found] = jaxdm.attribution_scores(
    trainer, ["trak"], MODELS, damping=DAMPING, moments=1
  ).values()
  rest = [states[1.0][i] for i in (0, 2)]
  parts = [trak(*state, t) for state in rest]
  sizes = [np.sqrt((part**2).mean()) for part in parts]
  units = [part / size for part, size in zip(parts, sizes, strict=True)]
  doubt = np.mean([1 / (1 + np.exp(odds_b[t:])) for _, odds_b in rest], axis=0)
  expected = np.mean(units, axis=0) * np.mean(sizes) * doubt
  np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4 * expected.std())


@pytest.fixture(scope="module")
def of_vectors() -> jaxdm.Trainer:
  """Trains linear models of vectors, of whose targets two are scored below."""
  rng = np.random.default_rng(1)
  x, labels = rng.normal(size=(24, 3)).astype(np.float32), np.arange(24) % 2
  data = jaxdm.Dataset("v", x[:20], labels[:20], x[20:], labels[20:], ("a", "b"))
  config = jaxdm.TrainConfig(epochs=2, batch_size=5)
  return jaxdm.Trainer(data, config, network="linear")


def relabel_sums(trainer: jaxdm.Trainer, start: int, size: int):
  targets = np.array([0, 2])
  return sum_scores(trainer, targets, start, size, damping=0.2, moments=1)


def test_blocks_of_examples_change_no_relabel_score(of_vectors, monkeypatch) -> None:
  whole = mean_scores([relabel_sums(of_vectors, 0, 2)])
  monkeypatch.setattr(label_flip_scores, "_BLOCK_EXAMPLES", 7)
  blocks = mean_scores([relabel_sums(of_vectors, 0, 2)])
  np.testing.assert_allclose(blocks, whole, rtol=1e-4, atol=1e-6)


def test_a_model_whose_gradients_overflow_has_no_relabel_scores(
  of_vectors, monkeypatch
) -> None:
  alone, made = relabel_sums(of_vectors, 0, 1), full_data.gradients_of

  def overflows(outputs, row, t):
    found = made(outputs, row, t)
    if row != of_vectors.fleet.places[1]:
      return found
    return found._replace(train_nd=found.train_nd * jnp.inf)

  monkeypatch.setattr(full_data, "gradients_of", overflows)
  both = relabel_sums(of_vectors, 0, 2)
  assert both.terms == len(both.units) == 1
  np.testing.assert_allclose(both.scores, alone.scores, rtol=1e-4, atol=1e-6)


def test_features_are_compared_as_scikit_learn_does(of_vectors) -> None:
  """Those of a linear model are its inputs, in units of their spread."""
  found = jaxdm.attribution_scores(of_vectors, ["similar", "close"], num_models=2)
  x, targets = of_vectors.fleet.values, of_vectors.target_values
  train, rest = ((values - x.mean(0)) / x.std(0) for values in (x, targets))
  similar = pairwise.cosine_similarity(rest, train)
  np.testing.assert_allclose(found["similar"], similar, atol=1e-5)
  close = -pairwise.euclidean_distances(rest, train)
  np.testing.assert_allclose(found["close"], close, atol=1e-5)

"""Scores of several models, at several moments of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxdm
from jaxdm import training_sets
from jaxdm.attribution import full_data, gradient
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
    for i in range(MODELS):
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


def test_a_moments_influence_is_the_response_of_a_damped_newton_step(states) -> None:
  """Leaving an example out of a model's last step changes targets by its score."""
  phi_bp, odds_b = states[MOMENTS[0]][0]
  t = len(phi_bp) - N
  p_n = 1 / (1 + np.exp(-odds_b[t:]))
  rows = phi_bp[t:] * np.sqrt(p_n * (1 - p_n))[:, None]
  ridge = np.sqrt(DAMPING * (rows**2).sum() / N) * np.eye(rows.shape[1])

  def step(weights_n: np.ndarray) -> np.ndarray:
    """argmin |R s|^2 + c |s|^2 - 2 sum of weights (1 - p) phi s, by least squares."""
    slope = phi_bp[t:].T @ (weights_n * (1 - p_n))
    stacked = np.concatenate([rows, ridge])
    half, *_ = np.linalg.lstsq(stacked.T, slope, rcond=None)  # (A')^+ slope
    found, *_ = np.linalg.lstsq(stacked, half, rcond=None)
    return phi_bp[:t] @ found

  exact = np.stack([step(np.ones(N)) - step(1 - np.eye(N)[n]) for n in range(N)], axis=1)
  made = gradient.Gradients(
    *(jnp.asarray(a, jnp.float32) for a in (phi_bp[t:], phi_bp[:t], odds_b[t:]))
  )
  found = gradient.scores(gradient.influence(made, DAMPING), made.target_td)
  np.testing.assert_allclose(found, exact, rtol=2e-3, atol=1e-3 * exact.std())


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e12])
def test_root_mean_squares_are_those_of_all_scores(scale) -> None:
  rng = np.random.default_rng(0)
  rows, targets = rng.normal(size=(40, 7)) * scale, rng.normal(size=(9, 7))
  found = gradient.root_mean_square(jnp.float32(rows), jnp.float32(targets))
  np.testing.assert_allclose(found, np.sqrt(((targets @ rows.T) ** 2).mean()), rtol=1e-4)
  assert 0 < gradient.root_mean_square(jnp.zeros((3, 2)), jnp.ones((2, 2))) < 1e-30


def test_less_than_one_moment_is_refused(trainer) -> None:
  with pytest.raises(jaxdm.UserError, match="^moments must be >= 1, got 0"):
    jaxdm.attribution_scores(trainer, ["influence"], 2, moments=0)

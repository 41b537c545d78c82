"""What searches take as scores, new labels and targets, and what they refuse."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import jaxdm

N, T = 12, 4
LABELS, TARGET_LABELS = np.arange(N) % 2, np.arange(T) % 2
# Small integers, which every dtype below holds.
RNG = np.random.default_rng(0)
SCORES = RNG.integers(0, 9, (T, N)) + 5 * (TARGET_LABELS[:, None] == LABELS)
CONFIG = jaxdm.SearchConfig(max_share=0.9, num_targets=T)


def retrain(masks, labels, seeds):
  """A vote of the examples, with noise."""
  noise = 0.1 * np.random.default_rng(seeds).normal(size=(len(masks), T))
  votes = np.where(labels[:, None] == TARGET_LABELS[:, None], 1.0, -0.4)
  return (votes * masks[:, None]).mean(axis=2) - 0.1 + noise


def removals(scores, **options):
  return jaxdm.find_removals(
    scores, retrain, LABELS, TARGET_LABELS, config=CONFIG, **options
  )


def flips(scores, new_labels=1 - TARGET_LABELS, labels=LABELS, **options):
  return jaxdm.find_label_flips(
    scores, retrain, labels, TARGET_LABELS, new_labels, config=CONFIG, **options
  )


def repairs(scores, labels=LABELS, target_labels=TARGET_LABELS, **options):
  def negated(masks, labels, seeds):
    return -retrain(masks, labels, seeds)

  return jaxdm.find_repairs(
    scores, negated, labels, target_labels, config=CONFIG, **options
  )


SEARCHES = {"removals": removals, "flips": flips, "repairs": repairs}
KINDS = {
  "lists": lambda x: x.tolist(),
  "DataFrame": pd.DataFrame,
  "DataFrame of nullable numbers": lambda x: pd.DataFrame(x).convert_dtypes(),
  "csr": scipy.sparse.csr_matrix,
  "coo": scipy.sparse.coo_array,
  "objects": lambda x: x.astype(object),
  "big-endian": lambda x: x.astype(">f8"),
  "uint8": lambda x: x.astype(np.uint8),
  "jax": jnp.asarray,
  "bfloat16": lambda x: jnp.asarray(x, jnp.bfloat16),
  "torch": lambda x: pytest.importorskip("torch").tensor(x),
  "masked nowhere": np.ma.masked_array,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("search", SEARCHES)
def test_scores_of_any_kind_give_the_same_verdicts(search, kind) -> None:
  found = SEARCHES[search](KINDS[kind](SCORES))
  assert repr(found) == repr(SEARCHES[search](SCORES.astype(float)))
  assert found and all(verdict.examples for verdict in found)


WRONG = [
  (SCORES * 1j, "scores of scores must hold real numbers, got dtype complex128"),
  (SCORES.astype(str), "scores of scores must hold real numbers, got dtype <U"),
  (SCORES.astype(str).astype(object).T + "x", "scores of scores must hold real numbers"),
  (np.ma.masked_greater(SCORES, 4), "scores of scores must not hold masked values"),
  (SCORES[0], r"scores of scores must be [t, n] = (4, 12), got (12,)"),
  (None, "scores of scores must be [t, n] = (4, 12), got ()"),
]


@pytest.mark.parametrize("given,message", WRONG, ids=[text[:60] for _, text in WRONG])
@pytest.mark.parametrize("search", SEARCHES)
def test_other_scores_are_refused_in_one_line(search, given, message) -> None:
  with pytest.raises(ValueError) as caught:
    SEARCHES[search](given)
  assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_tensor_with_a_gradient_is_refused_in_one_line() -> None:
  tensor = pytest.importorskip("torch").ones(T, N, requires_grad=True)
  with pytest.raises(ValueError, match="scores of scores must hold real numbers: Can't"):
    removals(tensor)


def test_new_labels_of_any_kind_give_the_same_verdicts() -> None:
  new = 1 - TARGET_LABELS
  expected = repr(flips(SCORES))
  for given in (new.tolist(), pd.Series(new), new * 1.0, jnp.asarray(new)):
    assert repr(flips(SCORES, given)) == expected
  rows = np.repeat(new[:, None], N, axis=1)
  for given in (rows, pd.DataFrame(rows), scipy.sparse.csr_array(rows)):
    assert repr(flips(SCORES, given)) == expected
  # Of examples of other classes nothing is asked.
  others = np.where(TARGET_LABELS[:, None] == LABELS, rows, -1)
  assert repr(flips(SCORES, others)) == expected


@pytest.mark.parametrize("value", [7, 2, -1, 99, 1.5, np.nan, np.inf])
def test_new_labels_are_classes(value) -> None:
  new = np.array([value, 0, value, 0])
  text = r"new_labels of target 0 must be integers in \[0, 1\], the range of labels and "
  for given in (new, np.repeat(new[:, None], N, axis=1)):
    with pytest.raises(ValueError, match=text + rf"target_labels, got {value}"):
      flips(SCORES, given)
  with pytest.raises(ValueError, match="new_labels must be integers, got bool"):
    flips(SCORES, TARGET_LABELS == 0)


def test_new_labels_must_fit_in_the_type_of_the_labels() -> None:
  with pytest.raises(ValueError, match=r"must be integers in \[0, 127\], .*, got 256"):
    jaxdm.find_label_flips(
      SCORES,
      retrain,
      LABELS.astype(np.int8),
      TARGET_LABELS + [300, 0, 0, 0],
      [256, 256, 256, 0],
      config=CONFIG,
      targets=[2],
    )
  with pytest.raises(
    ValueError, match="target_labels hold 30[01], which no training example has"
  ):
    repairs(SCORES, LABELS.astype(np.int8), 300 + TARGET_LABELS, change="relabel")

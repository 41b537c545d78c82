"""What models predict of their training examples, in a store."""

import numpy as np
import pytest
import scipy.special

from jaxdm.storage import training_predictions
from jaxdm.storage.store import Store


def opened(folder, **changes) -> Store:
  given = {"num_train": 256, "num_classes": 10, "settings": {"seed": 1}}
  return training_predictions.open_store(folder, **given | changes, rows_per_chunk=4)


def test_rounding_changes_no_sign_and_hardly_a_probability(tmp_path) -> None:
  rng = np.random.default_rng(0)
  margins = rng.normal(size=(4, 256)) * 10.0 ** rng.integers(-12, 9, (4, 256))
  margins[:, 0] = 0
  classes = rng.integers(0, 10, (4, 256))
  store = opened(tmp_path / "run")
  training_predictions.write_from(store, 0, margins, classes)
  found = store.read("margins", slice(0, 4))
  np.testing.assert_array_equal(np.sign(found), np.sign(margins))
  np.testing.assert_array_equal(store.read("classes", slice(0, 4)), classes)
  change = scipy.special.expit(found.astype(float)) - scipy.special.expit(margins)
  assert np.abs(change).max() <= 0.224 * training_predictions.MARGIN_ROUNDING + 1e-7
  assert training_predictions.bytes_per_model(256, 10) == 768
  files = [path for path in (tmp_path / "run").rglob("c/*/*") if path.is_file()]
  assert sum(path.stat().st_size for path in files) < 4 * 768 + 400


def test_a_chunk_grows_and_diverged_models_are_counted(tmp_path) -> None:
  rng = np.random.default_rng(0)
  margins = rng.normal(size=(7, 256)).astype(np.float16).astype(np.float32)
  margins[1] = np.nan
  classes = rng.integers(0, 10, (7, 256))
  store = opened(tmp_path)
  for start, stop in ((0, 3), (3, 4), (4, 6), (6, 7)):
    rows = slice(start, stop)
    training_predictions.write_from(store, start, margins[rows], classes[rows])
  assert store.chunks() == {0: 4, 1: 3}
  np.testing.assert_array_equal(store.read("margins", slice(0, 7)), margins)
  np.testing.assert_array_equal(store.read("classes", slice(0, 7)), classes)
  assert (store.about(0, 4)["diverged"], store.about(1, 3)["diverged"]) == (1, 0)


@pytest.mark.parametrize("change", [{"num_classes": None}, {"settings": {"seed": 2}}])
def test_other_predictions_are_refused(tmp_path, change) -> None:
  opened(tmp_path)
  with pytest.raises(ValueError, match="holds other models"):
    opened(tmp_path, **change)

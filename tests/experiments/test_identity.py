"""Nothing that depends on something else is ever used again.

`TABLE` has one entry for each thing that is kept for later use. An entry is used once as
it is, which keeps something; used again as it is, which must do no work; and used with
each part changed in turn, which must be refused, or do the work again.
"""

import dataclasses
import enum
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import lose_chunk

from experiments import (
  brittleness,
  fit_datamodels,
  label_flip,
  repair,
  train_subsets,
)
from experiments.config import presets
from experiments.config import settings as settings_lib
from experiments.runtime import (
  base_models,
  datamodels,
  records,
  relabel,
  stages,
  subset_models,
)
from experiments.runtime.run import Run, make_run
from experiments.runtime.workdir import Workdir, WorkdirError
from experiments.runtime.workdir_models import BASE_MODELS
from experiments.studies import efficiency, explain, removal_curves
from jaxdm import identity, prng, training_sets
from jaxdm.attribution.registry import from_full_data
from jaxdm.brittleness.config import SearchConfig
from jaxdm.data.dataset import Dataset
from jaxdm.datamodels import inputs as inputs_lib
from jaxdm.datamodels import priors
from jaxdm.datamodels.config import FitConfig
from jaxdm.datamodels.fit import fit_datamodels as fit_models
from jaxdm.datamodels.model import Datamodels
from jaxdm.storage import (
  array_folder,
  bank,
  maintenance,
  store,
  store_layout,
  zarr_arrays,
)
from jaxdm.storage.checksummed_json import DamageError
from jaxdm.storage.matrix_view import MatrixView
from jaxdm.training import fleet
from jaxdm.training.collection import Subsets, missing_in_store
from jaxdm.training.config import TrainConfig
from jaxdm.training.trainer import Trainer

# What a digest takes in.

SCALARS = (
  st.none()
  | st.booleans()
  | st.integers(-300, 300)
  | st.floats(allow_nan=False)
  | st.text(max_size=3)
  | st.binary(max_size=3)
)
VALUES = st.recursive(
  SCALARS,
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
  max_leaves=6,
)


def text_of(value: object) -> str:
  """An independent account of a value, in which types show and keys are sorted."""
  if isinstance(value, dict):
    items = sorted((text_of(k), text_of(v)) for k, v in value.items())
    return f"{{{items!r}}}"
  if isinstance(value, list):
    return f"[{[text_of(v) for v in value]!r}]"
  return f"{type(value).__name__} {value!r}"


@given(VALUES, VALUES)
@settings(max_examples=300)
def test_values_have_the_same_digest_only_if_they_are_the_same(a, b) -> None:
  assert (identity.digest(a) == identity.digest(b)) == (text_of(a) == text_of(b))


@dataclasses.dataclass(frozen=True)
class Frozen:
  a: object


@dataclasses.dataclass
class Loose:
  a: object


class Named(NamedTuple):
  a: object


def test_types_shapes_and_boundaries_are_told_apart() -> None:
  ones = np.ones(4, np.float32)
  values = [
    *([], [[]], {}, "", b"", None, 0, False, 0.0, -0.0, "0", 1, True, 1.0, "1"),
    *(["ab", "c"], ["a", "bc"], ["abc"], "abc", ["a", ["b", "c"]], {"a": "bc"}),
    *({"a": {"b": 1}}, {"a": ["b", 1]}, Frozen(1), Frozen(1.0), Named(1), [1], [1, 1]),
    *(ones, ones.astype("f8"), ones[:2], ones.reshape(2, 2), ones.view("i4"), ones > 0),
    *(ones.astype(np.uint8), np.float32(1), ones[:0], np.zeros((0, 2), np.float32)),
    *(ones.reshape(2, 2)[None], jnp.ones(4, jnp.bfloat16), [ones, ones], [*ones]),
    *(prng.root_key(0), prng.root_key(1), jax.random.key(0, impl="rbg")),
    *(jax.random.key_data(prng.root_key(0)), identity.Bits((1, 4), np.uint8([[240]]))),
    *(identity.Bits((1, 5), np.uint8([[240]])), math.inf, math.nan, range(3)),
  ]
  digests = [identity.digest(value) for value in values]
  assert len(set(digests)) == len(digests)
  assert all(len(found) == 32 for found in digests)


@pytest.mark.parametrize(
  "value,message",
  [
    (lambda: 0, "value, a builtins.function"),
    ({"a": [0, print]}, r"value\['a'\]\[1\], a builtins.builtin_function_or_method"),
    (Frozen({1}), r"value\['Frozen'\]\['a'\], a builtins.set"),
    (Loose(1), "a dataclass that is not frozen"),
    (np.array([{}]), "an array of object, not of numbers"),
    (np.array(["a"]), "an array of <U1, not of numbers"),
    (np.ma.masked_array([1.0], [True]), "a numpy.ma.MaskedArray"),
    (enum.IntEnum("E", "a").a, "a test_identity.E"),
    ((i for i in ()), "a builtins.generator"),
    (Frozen, "a builtins.type"),
  ],
)
def test_what_is_not_known_is_refused_and_named(value, message) -> None:
  with pytest.raises(TypeError, match=message):
    identity.digest(value)


@pytest.mark.parametrize("dtype", ["?", "u1", "i4", "u8", "f2", "f4", "f8", "c8"])
def test_every_number_of_an_array_counts_and_its_layout_does_not(
  dtype, monkeypatch, tmp_path
) -> None:
  array = np.random.default_rng(0).integers(0, 2, (7, 5, 11)).astype(dtype)
  expected = identity.digest(array)
  np.save(tmp_path / "a.npy", array)
  same = [
    array.copy(order="F"),
    array.astype(array.dtype.newbyteorder(">")),
    np.concatenate([array, array])[:7],
    np.repeat(array, 2, axis=2)[..., ::2],
    np.load(tmp_path / "a.npy", mmap_mode="r"),
  ]
  for block_bytes in (1, 200, 2**26):
    monkeypatch.setattr(identity, "_BLOCK_BYTES", block_bytes)
    assert [identity.digest(other) for other in same] == [expected] * len(same)
    for place in itertools.product(*(range(size) for size in array.shape)):
      changed = array.copy()
      changed[place] = 1 - changed[place]
      assert identity.digest(changed) != expected


def test_masks_have_one_digest_packed_or_not() -> None:
  masks = np.random.default_rng(0).random((9, 13)) < 0.5
  packed = training_sets.PackedMasks(np.packbits(masks, axis=1), 13)
  assert identity.digest(packed) == identity.digest(masks)
  packed.bits[:, -1] |= 7  # Bits that stand for no example.
  assert identity.digest(packed) == identity.digest(masks)
  packed.bits[8, -1] ^= 8
  assert identity.digest(packed) != identity.digest(masks)


def test_a_matrix_in_a_store_is_told_by_its_chunks(tmp_path) -> None:
  columns = {"a": zarr_arrays.ArraySpec("float32", 600)}

  def opened(path="x", **changed) -> store.Store:
    options: dict[str, Any] = {"settings": {"seed": 0}} | changed
    return store.Store(tmp_path / path, columns=columns, rows_per_chunk=4, **options)

  first = opened()
  numbers = np.random.default_rng(0).normal(size=(12, 600)).astype(np.float32)
  for chunk in range(3):
    first.write(chunk, {"a": numbers[4 * chunk : 4 * chunk + 4]})
  rows = np.arange(10)
  expected = identity.digest(MatrixView(first, "a", rows))
  assert identity.digest(MatrixView(opened(), "a", rows)) == expected
  assert identity.digest(MatrixView(first, "a", rows[:9])) != expected
  assert identity.digest(MatrixView(first, "a", rows, range(599))) != expected
  for row, column in ((0, 0), (5, 300), (9, 599)):
    changed = numbers.copy()
    changed[row, column] += 1
    chunk = row // 4
    first.write(chunk, {"a": changed[4 * chunk : 4 * chunk + 4]})
    assert identity.digest(MatrixView(first, "a", rows)) != expected
    first.write(chunk, {"a": numbers[4 * chunk : 4 * chunk + 4]})
  assert identity.digest(MatrixView(first, "a", rows)) == expected
  lose_chunk(first, 1)
  with pytest.raises(store.StoreError, match="lacks chunk 1"):
    identity.digest(MatrixView(first, "a", rows))


def test_all_files_of_the_package_are_part_of_the_codes_digest(tmp_path) -> None:
  for name in ("a.py", "sub/b.py", "data/c.bin"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"1")
  expected = identity.code_digest(tmp_path)
  for name in ("a.py", "sub/b.py", "data/c.bin"):
    (tmp_path / name).write_bytes(b"2")
    assert identity.code_digest(tmp_path) != expected
    (tmp_path / name).write_bytes(b"1")
  (tmp_path / "sub/__pycache__").mkdir()
  (tmp_path / "sub/__pycache__/b.pyc").write_bytes(b"1")
  assert identity.code_digest(tmp_path) == expected
  (tmp_path / "a.py").rename(tmp_path / "d.py")
  assert identity.code_digest(tmp_path) != expected


# A tiny problem without training: margins are numbers that are made up.

N, T, FITTED, HELD_OUT = 24, 6, 40, 8


class Parts(NamedTuple):
  """All that the experiments here depend on."""

  config: TrainConfig
  images: np.ndarray
  labels: np.ndarray
  target_images: np.ndarray
  target_labels: np.ndarray
  class_names: tuple[str, ...]
  collect: settings_lib.CollectConfig
  gradient: settings_lib.GradientConfig
  prior: settings_lib.PriorConfig
  fit: FitConfig
  search: SearchConfig
  compare: settings_lib.CompareConfig
  flip: settings_lib.FlipConfig
  margins_mt: np.ndarray
  base_models: np.ndarray
  speed: fleet.Speed


def parts() -> Parts:
  rng = np.random.default_rng(0)
  images = rng.integers(0, 255, (N + T, 8, 8, 1)).astype(np.uint8)
  labels = (np.arange(N + T) % 2).astype(np.int32)
  return Parts(
    TrainConfig(width=4, epochs=1, batch_size=8),
    *(images[:N], labels[:N], images[N:], labels[N:], ("a", "b")),
    settings_lib.CollectConfig(num_models=FITTED, num_held_out=HELD_OUT, num_base=2),
    settings_lib.GradientConfig(),
    settings_lib.PriorConfig(),
    FitConfig(num_lambdas=3),
    SearchConfig(max_share=0.5),
    settings_lib.CompareConfig(),
    settings_lib.FlipConfig(),
    rng.normal(size=(FITTED + 2 * HELD_OUT, T)).astype(np.float32),
    rng.normal(size=(2, T, N)).astype(np.float32),
    fleet.Speed(),
  )


def with_one_changed(array: np.ndarray, *places: tuple[int, ...]) -> list[np.ndarray]:
  """Copies of an array, each with a single number changed."""
  found = []
  for place in places:
    changed = array.copy()
    changed[place] = changed[place] == 0
    found.append(changed)
  return found


def changed_configs(config: Any, *left_out: str) -> Iterator[tuple[str, Any]]:
  """A config with each of its fields changed in turn."""
  other = {"compute_dtype": "bfloat16", "priors": "none", "size_law": "surrogate"}
  other |= {"methods": "random", "search_targets": "1", "flip_to": "best"}
  other |= {"confidence": 0.9}
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if field.name in left_out:
      continue
    if field.name in other:
      new = other[field.name]
    elif isinstance(value, bool):
      new = not value
    elif isinstance(value, int):
      new = value + 1
    else:
      new = value / 2 if value else 0.1
    yield field.name, dataclasses.replace(config, **{field.name: new})


def changed_models(base: Parts) -> dict[str, Parts]:
  """The problem with each part changed that any trained model may depend on."""
  found = {
    f"train.{name}": base._replace(config=config)
    for name, config in changed_configs(base.config)
  }
  places = {
    "images": [(0, 0, 0, 0), (N // 2, 3, 3, 0), (N - 1, 7, 7, 0)],
    "labels": [(0,), (N - 1,)],
    "target_images": [(0, 0, 0, 0), (T - 1, 7, 7, 0)],
    "target_labels": [(T - 1,)],
  }
  for name, where in places.items():
    for place, array in zip(
      where, with_one_changed(getattr(base, name), *where), strict=True
    ):
      found[f"{name}{list(place)}"] = base._replace(**{name: array})
  found["num_classes"] = base._replace(class_names=("a", "b", "c"))
  seed = dataclasses.replace(base.collect, seed=1)
  return found | {"seed": base._replace(collect=seed)}


def retrainer(folder, of: Parts) -> Trainer:
  models = fleet.Fleet(of.config, of.images, len(of.class_names), of.speed)
  targets = of.target_images, of.target_labels
  return Trainer.of(models, folder, of.labels, *targets, seed=of.collect.seed)


class Entry(NamedTuple):
  """Something that is kept.

  Attributes:
    use: takes a folder and the parts; returns whether work was done, not reused.
    base: the parts.
    changed: the parts with one of them changed, by its name.
    unchanged: changes that must not matter.
  """

  use: Callable[[Any, Any], bool]
  base: Any
  changed: dict[str, Any]
  unchanged: dict[str, Any]


def subset_store() -> Entry:
  """Models on random subsets, and the held-out ones' further seeds."""

  def use(folder, of: tuple[Parts, Subsets, dict[str, Any]]) -> bool:
    problem, subsets, options = of
    trainer = retrainer(folder, problem)
    opened = trainer.open_subsets("subsets", subsets, 4, rows_per_chunk=4, **options)
    fresh = bool(missing_in_store(opened.store, 4))
    if fresh:
      masks = subsets.masks(problem.collect.seed, N, np.arange(4))
      logits = np.zeros((4, T, 2), np.float32)
      bank.write(opened.store, 0, masks, logits[..., 0], logits)
    return fresh

  base, law = parts(), Subsets(alpha=0.5)
  changed = {name: (of, law, {}) for name, of in changed_models(base).items()}
  changed |= {
    "alpha": (base, dataclasses.replace(law, alpha=0.25), {}),
    "first": (base, dataclasses.replace(law, first=40), {}),
    "family": (base, dataclasses.replace(law, family="subset-1"), {}),
    "dtype": (base, law, {"dtype": "float16"}),
    "logits": (base, law, {"keep_logits": True}),
  }
  return Entry(use, (base, law, {}), changed, {"speed": (at_other_speed(base), law, {})})


def at_other_speed(base: Parts) -> Parts:
  speed = fleet.Speed(vmap_width=2, chunk=3, checkpoint_seconds=1, conv_backend="lax")
  return base._replace(speed=speed)


def changes_bank() -> Entry:
  """Models on changed sets, with what each of them was trained on."""
  masks = np.ones((1, N), bool)
  masks[0, 3] = False

  def use(folder, of: tuple[Parts, prng.Stream, np.ndarray, int]) -> bool:
    problem, seed, masks, label = of
    labels = problem.labels.copy()[None]
    labels[0, N - 1] = label
    trainer = retrainer(folder, problem)
    trainer.changes.refresh()
    fresh = bank.model_ids(masks, labels, [seed])[0] not in trainer.changes
    if fresh:
      trainer.changes.append([seed], masks, labels, np.zeros((1, T), np.float32))
    return fresh

  base, seed = parts(), prng.Stream("verify", 0)
  changed = {name: (of, seed, masks, 1) for name, of in changed_models(base).items()}
  del changed[f"labels[{N - 1}]"]  # It is given below.
  changed |= {
    "seed's number": (base, prng.Stream("verify", 1), masks, 1),
    "seed's family": (base, prng.Stream("search", 0), masks, 1),
    "first of the mask": (base, seed, with_one_changed(masks, (0, 0))[0], 1),
    "last of the mask": (base, seed, with_one_changed(masks, (0, N - 1))[0], 1),
    "a label": (base, seed, masks, 0),
  }
  speed = {"speed": (at_other_speed(base), seed, masks, 1)}
  return Entry(use, (base, seed, masks, 1), changed, speed)


def fit_parts() -> Entry:
  """Tiles of a fit that is continued."""
  rng = np.random.default_rng(0)
  masks = rng.random((1500, 9)) < 0.5
  margins = (masks @ rng.normal(size=(9, 300)) + rng.normal(size=(1500, 300))).astype(
    "f4"
  )
  factors = rng.random((300, 9)) + 0.5
  weights = rng.random(1500) + 0.5
  config = FitConfig(num_lambdas=2, tol=0.1, path_tol=0.1)

  def use(folder, of: tuple[Any, ...]) -> bool:
    masks, margins, config, weights, candidates = of
    before = set(folder.glob("*.npz"))
    fit_models(
      masks,
      margins,
      config=config,
      sample_weight=weights,
      candidates=candidates,
      folder=folder,
    )
    return set(folder.glob("*.npz")) != before

  def candidates(factors, offset=None) -> dict[str, priors.Prior]:
    return {"a": priors.Prior(lambda part: factors[part], offset)}

  base = masks, margins, config, weights, candidates(factors)
  places = (0, 0), (750, 4), (751, 4), (1499, 8)
  changed = {
    f"masks{list(place)}": (other, *base[1:])
    for place, other in zip(places, with_one_changed(masks, *places), strict=True)
  }
  places = (0, 0), (751, 150), (1499, 299)
  for place, other in zip(places, with_one_changed(margins, *places), strict=True):
    changed[f"margins{list(place)}"] = (masks, other, *base[2:])
  places = (0,), (750,), (1499,)
  for place, other in zip(places, with_one_changed(weights, *places), strict=True):
    changed[f"weights{list(place)}"] = (*base[:3], other, base[4])
  places = (0, 0), (150, 4), (299, 8)
  for place, other in zip(places, with_one_changed(factors, *places), strict=True):
    changed[f"factors{list(place)}"] = (*base[:4], candidates(other))
  for name, other in changed_configs(config):
    changed[f"fit.{name}"] = (masks, margins, other, *base[3:])
  changed |= {
    "no weights": (*base[:3], None, base[4]),
    "offset": (*base[:4], candidates(factors, factors)),
    "names": (*base[:4], {"b": base[4]["a"]}),
    "one more candidate": (*base[:4], base[4] | {"b": priors.Prior()}),
    "margins in float64": (masks, margins.astype(float), *base[2:]),
  }
  packed = training_sets.PackedMasks(np.packbits(masks, axis=1), 9)
  same = {
    "packed": (packed, *base[1:]),
    "all weights doubled": (*base[:3], 2 * weights, base[4]),
    "array": (*base[:4], {"a": priors.Prior(factors)}),
  }
  return Entry(use, base, changed, same)


def fit_parts_of_a_store() -> Entry:
  """The same where the margins are left in a store."""
  rng = np.random.default_rng(0)
  masks = rng.random((60, 5)) < 0.5
  margins = rng.normal(size=(60, 3)).astype(np.float32)
  config = FitConfig(num_lambdas=2, tol=0.1, path_tol=0.1)

  def use(folder, margins) -> bool:
    columns = {"margins": zarr_arrays.ArraySpec("float32", 3)}
    opened = store.Store(
      folder / "store", columns=columns, settings={}, rows_per_chunk=60
    )
    opened.write(0, {"margins": margins})
    matrix = MatrixView(opened, "margins", np.arange(60))
    before = set(folder.glob("parts/*.npz"))
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(inputs_lib, "_AT_ONCE", 0)
      fit_models(masks, matrix, config=config, folder=folder / "parts")
    return set(folder.glob("parts/*.npz")) != before

  places = (0, 0), (30, 1), (59, 2)
  others = with_one_changed(margins, *places)
  return Entry(use, margins, dict(zip(map(str, places), others, strict=True)), {})


def half_trained() -> Entry:
  """Models that a stopped process was in the middle of."""
  sets = training_sets.from_masks(np.ones((2, N), bool), parts().labels)
  keys = prng.keys_for(0, [prng.Stream("m", i) for i in range(2)])

  def use(folder, of: tuple[Parts, training_sets.TrainingSets, Any, float]) -> bool:
    problem, *chunk = of
    models = fleet.Fleet(problem.config, problem.images, len(problem.class_names))
    path = folder / models._name(*chunk)
    fresh = not path.exists()
    folder.mkdir(exist_ok=True)
    path.touch()
    return fresh

  base = parts()
  changed = {
    name: (of, sets, keys, 1.0)
    for name, of in changed_models(base).items()
    if name.startswith(("train.", "images", "num_classes"))
  }
  for name in sets._fields:
    [other] = with_one_changed(getattr(sets, name), (-1,) * getattr(sets, name).ndim)
    changed[f"sets.{name}"] = (base, sets._replace(**{name: other}), keys, 1.0)
  others = prng.keys_for(0, [prng.Stream("m", i) for i in (0, 2)])
  changed |= {"keys": (base, sets, others, 1.0), "until": (base, sets, keys, 0.5)}
  return Entry(use, (base, sets, keys, 1.0), changed, {})


# What launchers keep. Workdirs hold stores and records as train_subsets leaves them.


def toy_run(folder, of: Parts) -> Run:
  """An experiment whose models are stored, though nothing was trained."""
  start = presets.PRESETS["fashion"]()
  experiment = dataclasses.replace(
    start,
    data=settings_lib.DataConfig(),
    collect=of.collect,
    train=of.config,
    gradient=of.gradient,
    prior=of.prior,
    fit=of.fit,
    search=of.search,
    compare=of.compare,
    flip=of.flip,
  )
  images = Dataset(
    "toy", of.images, of.labels, of.target_images, of.target_labels, of.class_names
  )
  found = Workdir(str(folder))
  (folder / "stages").mkdir(parents=True, exist_ok=True)
  opened = make_run(found, experiment, images, of.speed)
  made, row = opened.subsets.make_collections(), 0
  for collection in made:
    size = collection.store.rows_per_chunk
    for chunk in missing_in_store(collection.store, collection.models):
      margins = of.margins_mt[row + chunk.start : row + chunk.stop]
      masks = collection.subsets.masks(of.collect.seed, N, np.asarray(chunk))
      bank.write(collection.store, chunk.start // size, masks, margins)
    row += collection.models
  outputs = {"base_models": identity.digest(of.base_models)}
  finished(found, train_subsets.STAGE, outputs)
  return opened


def finished(found: Workdir, stage: str, outputs: dict[str, str]) -> None:
  """Records a stage as finished, anew."""
  (found.path / "stages" / f"{stage}.json").unlink(missing_ok=True)
  stages.run(found, stage, {}, lambda: {stages.OUTPUTS: outputs})


def rewritten(folder, of: Parts) -> Run:
  """The same with the stores' numbers replaced, as a repair by other software would."""
  for marker in folder.glob("bank/*/done/*.json"):
    marker.unlink()
  return toy_run(folder, of)


def in_common(folder, of: Parts) -> Run:
  """An experiment with stores of its own, in a workdir that others like it share."""
  folder.mkdir(exist_ok=True)
  path = folder.parent / f"{folder.name}-common"
  (path / "stages").mkdir(parents=True, exist_ok=True)
  opened = toy_run(folder / str(len(list(folder.iterdir()))), of)
  return dataclasses.replace(opened, workdir=Workdir(str(path)))


def changed_base_models(base: Parts) -> dict[str, Parts]:
  """The problem with each part changed that models on all data depend on."""
  changed = changed_models(base)
  for name, other in changed_configs(base.gradient):
    changed[f"gradient.{name}"] = base._replace(gradient=other)
  more = dataclasses.replace(base.collect, num_base=3)
  return changed | {"num_base": base._replace(collect=more)}


def base_model_arrays() -> Entry:
  """Logits and scores of the models on all data."""

  def use(folder, of: Parts) -> bool:
    opened = in_common(folder, of)
    if base_models.exist(opened):
      base_models.load(opened)
      return False
    path = opened.workdir.path / BASE_MODELS
    scores = dict.fromkeys(from_full_data(), (T, N))
    arrays = array_folder.create(path, {"logits": (2, T, 2), **scores})
    array_folder.finish(path, arrays, base_models.identity_of(opened))
    return True

  base = parts()
  return Entry(use, base, changed_base_models(base), {"speed": at_other_speed(base)})


def relabel_parts() -> Entry:
  """Scores of label flips, for which models are trained again."""

  def use(folder, of: tuple[Parts, np.ndarray]) -> bool:
    problem, targets = of
    worked = []

    def mean(opened, targets, parts) -> np.ndarray:
      worked.append(targets)
      return np.zeros(1)

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(relabel, "_mean", mean)
      relabel.scores(in_common(folder, problem), targets)
    return bool(worked)

  base, targets = parts(), np.array([1, 4])
  changed = {name: (of, targets) for name, of in changed_base_models(base).items()}
  changed["targets"] = (base, np.array([1, 5]))
  return Entry(use, (base, targets), changed, {"speed": (at_other_speed(base), targets)})


def changed_inputs(base: Parts) -> dict[str, Parts]:
  """The problem with each part changed that a stage after training reads."""
  places = {
    "margins_mt": [
      (0, 0),
      (FITTED - 1, T - 1),
      (FITTED, 0),
      (FITTED + 2 * HELD_OUT - 1, T - 1),
    ],
    "base_models": [(0, 0, 0), (1, T - 1, N - 1)],
  }
  return {
    f"{name}{list(place)}": base._replace(**{name: other})
    for name, where in places.items()
    for place, other in zip(
      where, with_one_changed(getattr(base, name), *where), strict=True
    )
  }


def scores_of(of: Parts) -> dict[str, np.ndarray]:
  return dict.fromkeys(settings_lib.METHODS, of.base_models[0])


def efficiency_parts() -> Entry:
  """Fits of several sizes and ways."""

  def use(folder, of: Parts) -> bool:
    opened, worked = rewritten(folder, of), []

    def weights(way, problem) -> dict[str, np.ndarray]:
      worked.append(way)
      return {"weights": np.zeros((T, N), np.float32)}

    base = base_models.BaseModels(np.zeros((2, T)), np.zeros((2, T, 2)), scores_of(of))
    (folder / "stages/efficiency.json").unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch, flagsaver.as_parsed(sizes=str(FITTED)):
      patch.setattr(efficiency, "weights", weights)
      patch.setattr(efficiency, "evaluate", lambda *a: efficiency.Point("x", 1, 0, 0, 0))
      patch.setattr(efficiency, "_write", lambda *a: None)
      patch.setattr(base_models, "load", lambda opened: base)
      efficiency.main(opened)
    return bool(worked)

  base = parts()
  changed = changed_inputs(base)
  # Weights are not made anew because others judge them.
  rows = {
    f"margins_mt{[row, t]}"
    for row in range(FITTED, len(base.margins_mt))
    for t in range(T)
  }
  unchanged = {name: changed.pop(name) for name in rows & changed.keys()}
  assert unchanged
  for name, other in changed_configs(base.fit):
    changed[f"fit.{name}"] = base._replace(fit=other)
  return Entry(use, base, changed, unchanged)


def stage_record(
  main: Callable[[Any], Any],
  *groups: str,
  reads_fit: bool = True,
  margin: float = 1.0,
  **flags: list[str],
) -> Callable[[], Entry]:
  """The record of a stage after training.

  Args:
    main: the launcher's.
    *groups: of settings that it depends on.
    reads_fit: whether it reads the datamodels.
    margin: of the models on all data.
    **flags: two values of each of its own flags.
  """

  def use(folder, of: tuple[Parts, str, dict[str, str]]) -> bool:
    problem, fitted, given = of
    opened, worked = rewritten(folder, problem), []
    if main is not fit_datamodels.main:
      finished(opened.workdir, fit_datamodels.STAGE, {"datamodels": fitted})
    models = np.full((2, T), margin), np.ones((2, T, 2)), scores_of(problem)
    run = stages.run

    def counted(workdir, stage, settings, work, inputs={}, files=()) -> Any:  # noqa: B006
      return run(workdir, stage, settings, lambda: worked.append(stage) or {}, inputs)

    with pytest.MonkeyPatch.context() as patch, flagsaver.as_parsed(**given):
      patch.setattr(stages, "run", counted)
      patch.setattr(base_models, "load", lambda opened: base_models.BaseModels(*models))
      main(opened)
    return bool(worked)

  def entry() -> Entry:
    base, given = parts(), {name: values[0] for name, values in flags.items()}
    changed: dict[str, Any]
    changed = {name: (of, "fit", given) for name, of in changed_inputs(base).items()}
    if reads_fit:
      changed["datamodels"] = (base, "another fit", given)
    for group in groups:
      for name, other in changed_configs(getattr(base, group)):
        of = base._replace(**{group: other})
        changed[f"{group}.{name}"] = (of, "fit", given)
    for name, values in flags.items():
      if len(values) > 1:
        changed[name] = (base, "fit", given | {name: values[1]})
    return Entry(use, (base, "fit", given), changed, {})

  return entry


TABLE: dict[str, Callable[[], Entry]] = {
  "subset store": subset_store,
  "changes": changes_bank,
  "parts of a fit": fit_parts,
  "parts of a fit to a store": fit_parts_of_a_store,
  "half-trained models": half_trained,
  "models on all data": base_model_arrays,
  "parts of relabel": relabel_parts,
  "parts of efficiency": efficiency_parts,
  "record of fit_datamodels": stage_record(
    fit_datamodels.main, "prior", "fit", reads_fit=False
  ),
  "record of brittleness": stage_record(brittleness.main, "search", "compare"),
  "record of label_flip": stage_record(label_flip.main, "search", "compare", "flip"),
  "record of repair": stage_record(
    repair.main, "search", "compare", margin=-1.0, search_targets=["1"]
  ),
  "record of removal_curves": stage_record(
    removal_curves.main,
    *("search", "compare"),
    curve_sizes=["1", "2"],
    curve_models=["4", "5"],
  ),
  "record of explain": stage_record(
    explain.main, ks=["1", "2"], explain_models=["4", "5"]
  ),
  "record of efficiency": stage_record(
    efficiency.main,
    "fit",
    reads_fit=False,
    sizes=["12", "13"],
    ways=["none", "published"],
  ),
  "record of efficiency with saved fits": stage_record(
    efficiency.main,
    "fit",
    reads_fit=False,
    sizes=["12"],
    ways=["none,published"],
    save=["none@12", "published@12"],
  ),
}
REFUSED = (store.StoreError, WorkdirError, ValueError)


def reused(entry: Entry, folder, of: Any) -> bool:
  """Whether something kept was used; a refusal is none."""
  try:
    return not entry.use(folder, of)
  except REFUSED as error:
    text = str(error)
    assert "holds" in text and "\n" not in text, text
    return False


@pytest.mark.parametrize("name", TABLE)
def test_what_depends_on_something_else_is_never_used_again(name, tmp_path) -> None:
  entry = TABLE[name]()
  folder = tmp_path / "kept"
  assert entry.use(folder, entry.base)
  assert reused(entry, folder, entry.base)
  for part, of in entry.unchanged.items():
    assert reused(entry, folder, of), part
  for part, of in entry.changed.items():
    entry.use(folder, entry.base)  # Else it would be compared with the part before.
    assert not reused(entry, folder, of), f"{part} is no part of the identity"


def test_datamodels_that_were_changed_are_refused(tmp_path) -> None:
  numbers = np.zeros((T, N), np.float32)
  models = Datamodels(numbers, *(numbers[:, 0],) * 5)
  found = Workdir(str(tmp_path))
  (tmp_path / "stages").mkdir()
  finished(found, fit_datamodels.STAGE, {"datamodels": identity.digest(models)})
  models.save(tmp_path / "datamodels")
  np.testing.assert_array_equal(datamodels.load(found).weights_tn, numbers)
  for name in [field.name for field in dataclasses.fields(models)]:
    array = getattr(models, name)
    [other] = with_one_changed(array, (-1,) * array.ndim)
    changed = dataclasses.replace(models, **{name: other})
    changed.save(tmp_path / "datamodels", overwrite=True)
    with pytest.raises(DamageError, match="is not what fit_datamodels wrote"):
      datamodels.load(found)


def test_masks_of_fits_and_judgements_are_those_that_were_stored(
  tmp_path, monkeypatch
) -> None:
  base = parts()
  opened = toy_run(tmp_path, base)
  collection = opened.subsets.collections()[0]
  store_of_subsets, numbers = collection.store, np.arange(FITTED + HELD_OUT)
  expected = collection.subsets.masks(base.collect.seed, N, numbers)
  swapped = expected[:32].copy()
  swapped[5] = ~swapped[5]
  bank.write(store_of_subsets, 0, swapped, base.margins_mt[:32])

  def drawn(*args: object) -> None:
    raise AssertionError("masks are drawn again")

  monkeypatch.setattr(training_sets, "random_masks", drawn)
  masks, margins_mt = subset_models.load_converged(opened.subsets.fitted_rows())
  expected[5] = ~expected[5]
  np.testing.assert_array_equal(masks[:], expected[:FITTED])
  np.testing.assert_array_equal(margins_mt[:], base.margins_mt[:FITTED])
  masks, margins_mt = subset_models.join(opened.subsets.held_out_rows())
  np.testing.assert_array_equal(masks[:], np.tile(expected[FITTED:], (2, 1)))
  np.testing.assert_array_equal(margins_mt, base.margins_mt[FITTED:])


@pytest.mark.parametrize("spoilt", ["masks", "labels", "order"])
def test_changed_sets_that_are_not_their_ids_are_found(tmp_path, spoilt) -> None:
  rng = np.random.default_rng(0)
  masks, labels = rng.random((5, N)) < 0.7, rng.integers(0, 2, (5, N))
  masks[:, N - 1] = True
  seeds = [prng.Stream("verify", i) for i in range(5)]
  changes = retrainer(tmp_path, parts()).changes
  changes.append(seeds, masks, labels, rng.normal(size=(5, T)).astype(np.float32))
  assert list(changes.wrong_chunks()) == []
  ids = bank.model_ids(masks, labels, seeds)
  if spoilt == "masks":
    masks[4, 0] = ~masks[4, 0]
  elif spoilt == "labels":
    labels[4, N - 1] = 1 - labels[4, N - 1]
  else:
    ids[0], ids[4] = ids[4], ids[0]
  [(chunk, rows)] = changes._store.chunks().items()
  margins = np.zeros((rows, T), np.float32)
  bank.write(changes._store, chunk, masks, margins, about={"ids": ids}, labels_mn=labels)
  [(found, why)] = changes.wrong_chunks()
  assert found == chunk and "not the training sets" in why


def test_labels_of_many_classes_take_little_room_and_come_back(tmp_path) -> None:
  rng, n = np.random.default_rng(0), 20_000
  labels = np.tile(rng.integers(0, 10, n), (32, 1))
  labels[np.arange(32), rng.integers(0, n, 32)] = 300
  opened = bank.open_store(
    tmp_path, num_targets=1, num_train=n, settings={}, label_classes=301
  )
  masks, margins = np.ones(labels.shape, bool), np.zeros((32, 1))
  bank.write(opened, 0, masks, margins, labels_mn=labels)
  found = opened.read("labels", slice(0, 32))
  assert found.dtype == np.uint16
  np.testing.assert_array_equal(found, labels)
  assert (tmp_path / "labels/c/0/0").stat().st_size < 32 * n / 20
  labels[3, 7] = 2**16
  with pytest.raises(store.StoreError, match="uint16 cannot hold labels of 0 to 65536"):
    bank.write(opened, 1, masks, margins, labels_mn=labels)


def test_a_store_that_others_wrote_says_so_once_and_lists_them(
  tmp_path, monkeypatch, recwarn
) -> None:
  columns = {"a": zarr_arrays.ArraySpec("float32", 2)}
  row = {"a": np.zeros((1, 2))}

  def opened(**options: Any) -> store.Store:
    return store.Store(tmp_path, columns=columns, settings={}, **options)

  opened().write(0, row)
  opened().write(1, row)
  assert not recwarn.list
  mine = identity.made_by()
  assert {"jaxdm", "jax", "jaxlib", "flax", "optax", "code", "device"} <= set(mine)
  assert maintenance.summary(tmp_path).made_by == [mine]
  other = mine | {"jax": "0.0.1", "XLA_FLAGS": "--xla_x"}
  with monkeypatch.context() as patch:
    patch.setattr(identity, "made_by", lambda: other)
    later = opened(provenance=lambda: {"conv_backend": "lax"})
    with pytest.warns(UserWarning, match="XLA_FLAGS: .*; jax: stored '0.*asked '0.0.1'"):
      later.write(2, row)
    later.write(3, row)
    assert len(recwarn.list) == 0
  # And whoever comes back to it hears of what came between.
  with pytest.warns(UserWarning, match="conv_backend: .* jax: stored '0.0.1'"):
    opened().write(4, row)
  found = maintenance.summary(tmp_path).made_by
  assert found == [mine, other | {"conv_backend": "lax"}]


def test_xla_flags_are_noted(monkeypatch) -> None:
  monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
  found = identity.made_by.__wrapped__()
  assert found["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=true"
  monkeypatch.delenv("XLA_FLAGS")
  assert "XLA_FLAGS" not in identity.made_by.__wrapped__()


def test_stores_and_records_of_other_versions_are_refused_in_one_line(
  tmp_path, monkeypatch
) -> None:
  base = parts()
  opened = toy_run(tmp_path, base)
  monkeypatch.setattr(store_layout, "FORMAT", 4)
  with pytest.raises(store.StoreError, match="store of format 3, .*use the version that"):
    opened.subsets.collections()
  monkeypatch.setattr(records, "FORMAT", 3)
  with pytest.raises(WorkdirError, match="go on with that version, or name"):
    stages.summary_of(opened.workdir, train_subsets.STAGE)


def test_models_that_diverged_are_not_fitted_to(tmp_path) -> None:
  base = parts()
  margins = base.margins_mt.copy()
  margins[3] = np.nan
  opened = toy_run(tmp_path, base._replace(margins_mt=margins))
  masks, found = subset_models.load_converged(opened.subsets.fitted_rows())
  rest = np.delete(np.arange(FITTED), 3)
  np.testing.assert_array_equal(found[:], margins[rest])
  subsets = opened.subsets.collections()[0].subsets
  np.testing.assert_array_equal(masks[:], subsets.masks(base.collect.seed, N, rest))

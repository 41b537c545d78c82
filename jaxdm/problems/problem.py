"""Problems that ship with the package: what models on random subsets predicted.

A problem is a file `NAME.npz` in this folder, made by `experiments.ops.make_problem`.
"""

import dataclasses
import json
import os
import pathlib
import warnings
import zipfile
import zlib
from typing import Any

import numpy as np

from jaxdm import identity
from jaxdm.brittleness.config import SearchConfig
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.data.dataset import Dataset
from jaxdm.data.load import load_dataset
from jaxdm.data.place import Place, place
from jaxdm.errors import UserError
from jaxdm.margins import correct_class_margins
from jaxdm.storage import atomic_io
from jaxdm.training.config import TrainConfig
from jaxdm.training.speed import Speed
from jaxdm.training.trainer import Trainer

_FOLDER = pathlib.Path(__file__).parent
_SUFFIX = ".npz"
_MASKS = ("masks", "held_out_masks")
# What NumPy and the fields of a problem raise on a damaged file.
_DAMAGE = (
  *(EOFError, KeyError, OSError, TypeError, ValueError),
  *(zipfile.BadZipFile, zlib.error),
)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
  """Training sets and margins of models, and all that is needed to train them again.

  >>> import jaxdm
  >>> problem = jaxdm.load_problem("fashion")
  >>> problem.masks.shape, problem.margins.shape, problem.held_out_margins.shape
  ((1200, 200), (1200, 120), (2, 200, 120))
  >>> masks, margins = problem.held_out
  >>> scores = problem.margins.T.astype(float) @ (problem.masks - 0.5)  # A simple fit.
  >>> jaxdm.evaluate_scores(scores, masks, margins).lds.estimate > 0.3
  True

  Attributes:
    masks: bool[m, n], random subsets; models on them are for fits.
    margins: float16[m, t], of these models, in logits; NaN where one diverged.
    seeds: int[m], with which `trainer` trains them again.
    held_out_masks: bool[s, n], further subsets, which judge scores.
    held_out_margins: float16[2, s, t], of two models on each; the second ones have seeds
      of their own, which `trainer` does not take.
    held_out_seeds: int[s], of the first models.
    labels: int32[n], of the training examples.
    target_labels: int32[t].
    base_logits: float32[r, t, k], of models on all data.
    verdicts: the removals that reference methods found, as they were verified on the date
      in `about`; rules of verification may have become stricter since.
    about: JSON values: name, data, train, network, alpha, seed, search; class_names,
      train_sources and test_sources, which say which examples they are; and made_by,
      devices, dates and command, from which the file came.
  """

  masks: np.ndarray
  margins: np.ndarray
  seeds: np.ndarray
  held_out_masks: np.ndarray
  held_out_margins: np.ndarray
  held_out_seeds: np.ndarray
  labels: np.ndarray
  target_labels: np.ndarray
  base_logits: np.ndarray
  verdicts: tuple[Verdict, ...]
  about: dict[str, Any]

  @property
  def name(self) -> str:
    """The problem's name."""
    return str(self.about["name"])

  @property
  def digest(self) -> str:
    """128 bits of everything in the problem, in hex."""
    return identity.digest(self._parts())

  @property
  def base_margins(self) -> np.ndarray:
    """float32[r, t], of the models on all data."""
    return correct_class_margins(self.base_logits, self.target_labels)

  @property
  def held_out(self) -> tuple[np.ndarray, np.ndarray]:
    """Masks bool[2s, n] and margins float32[2s, t], as `evaluate_scores` takes them."""
    first, second = self.held_out_margins.astype(np.float32)
    return np.tile(self.held_out_masks, (2, 1)), np.concatenate([first, second])

  @property
  def targets(self) -> np.ndarray:
    """int[u], the targets that reference methods were searched for, ascending."""
    return np.unique([verdict.target for verdict in self.verdicts])

  @property
  def search(self) -> SearchConfig:
    """How removals are searched and verified."""
    settings = dict(self.about["search"])
    settings.pop("search_seeds", None)  # Of an earlier search.
    return SearchConfig(**settings)

  def dataset(self, data_dir: str | None = None, arrays: str | None = None) -> Dataset:
    """The examples and targets, at the size that models are trained on.

    Args:
      data_dir: where a data set that does not ship is; see `load_dataset`.
      arrays: see `load_dataset`.

    Raises:
      DataError: if the data cannot be loaded.
      UserError: if they are other examples than the problem's.

    Warns of the same examples with other pixels, such as the original images where the
    problem's come from JPEG files.
    """
    data = self.about["data"]
    full = load_dataset(
      data["dataset"], data_dir=data_dir, arrays=arrays, background=data["background"]
    )
    classes = data["classes"].split(",") if data["classes"] else None
    sizes = data["train_per_class"] or None, data["test_per_class"] or None
    subset = full.take(classes, *sizes)
    if subset.fingerprint() != data["fingerprint"]:
      if not self._has_examples_of(subset):
        raise UserError(
          "problem", f"={self.name} is of other images than {data['dataset']} has here"
        )
      warnings.warn(
        f"images of {data['dataset']} have other pixels here than those of the problem "
        f"{self.name}; models that are trained on them differ from its models",
        stacklevel=2,
      )
    return subset.downscaled(data["downscale"])

  def _has_examples_of(self, dataset: Dataset) -> bool:
    """Whether the examples and labels are the same, whatever the pixels."""
    return (
      np.array_equal(dataset.train_labels, self.labels)
      and np.array_equal(dataset.test_labels, self.target_labels)
      and list(dataset.train_sources) == self.about["train_sources"]
      and list(dataset.test_sources) == self.about["test_sources"]
    )

  def trainer(
    self,
    dataset: Dataset,
    folder: str | os.PathLike[str] | None = None,
    speed: Speed = Speed(),
  ) -> Trainer:
    """Trains the problem's models, and models on any other training sets.

    Margins are the stored ones to rounding only on devices like those that `about` names:
    training amplifies differences of rounding.

    Args:
      dataset: of `dataset`.
      folder: for stores; see `Trainer`.
      speed: see `Trainer`.
    """
    return Trainer(
      dataset,
      TrainConfig(**self.about["train"]),
      network=self.about["network"],
      folder=folder,
      seed=self.about["seed"],
      speed=speed,
    )

  def write(self, path: str | os.PathLike[str]) -> None:
    """Writes the file that `load_problem` reads; the same bytes for the same problem.

    Args:
      path: NAME.npz.

    Raises:
      UserError: on another ending.
    """
    if not os.fspath(path).endswith(_SUFFIX):
      raise UserError("path", f"must end in {_SUFFIX}, got {os.fspath(path)!r}")
    parts = self._parts()
    text = json.dumps({key: parts.pop(key) for key in ("verdicts", "about")})
    for name in _MASKS:
      parts[name] = np.packbits(parts[name], axis=1)
    for name, value in (("text", text), ("digest", self.digest)):
      parts[name] = np.frombuffer(value.encode(), np.uint8)
    with atomic_io.writing(atomic_io.as_path(path)) as file:
      np.savez_compressed(file, **parts)

  def _parts(self) -> dict[str, Any]:
    """All fields, as arrays and JSON values."""
    parts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    verdicts = [verdict._asdict() for verdict in self.verdicts]
    for fields in verdicts:  # Of removals; earlier files lack the field.
      del fields["is_repair"]
    return parts | {"verdicts": verdicts}


def problem_names() -> list[str]:
  """The problems that ship with the package."""
  return sorted(path.stem for path in _FOLDER.glob(f"*{_SUFFIX}"))


def problem_path(name: str | os.PathLike[str]) -> Place:
  """The file of a problem of the package, or the path itself if it ends in .npz."""
  text = os.fspath(name)
  return place(text) if text.endswith(_SUFFIX) else _FOLDER / f"{text}{_SUFFIX}"


def load_problem(name: str | os.PathLike[str]) -> Problem:
  """Loads trained models and targets, on which scores of any method can be judged.

  >>> import jaxdm
  >>> problem = jaxdm.load_problem("fashion")
  >>> problem.about["class_names"], problem.labels.shape, len(problem.targets)
  (['T-shirt', 'shirt'], (200,), 24)

  Args:
    name: 'fashion' (the embedded images), 'cifar10-two' (airplanes and ships of
      CIFAR-10, without the images), 'cifar10-dog-frog' (dogs and frogs), or the path of
      a file NAME.npz.

  Returns:
    Problem.

  Raises:
    UserError: on a name that does not exist, or a file that is not as it was written.
  """
  path = problem_path(name)
  if not path.exists():
    names = ", ".join(problem_names())
    raise UserError("problem", f"must be {names} or a file NAME.npz, got {str(name)!r}")
  try:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
      parts: dict[str, Any] = {key: file[key] for key in file.files}
    digest, text = (bytes(parts.pop(key)).decode() for key in ("digest", "text"))
    parts |= json.loads(text)
    for key in _MASKS:
      bits, n = parts[key], len(parts["labels"])
      parts[key] = np.unpackbits(bits, axis=1, count=n).view(bool)
    parts["verdicts"] = tuple(
      Verdict(**{**fields, "examples": tuple(fields["examples"])})
      for fields in parts["verdicts"]
    )
    problem = Problem(**parts)
    if problem.digest != digest:
      raise ValueError("it has changed since it was written")
  except _DAMAGE as error:
    raise UserError("problem", f"={name}: {path} is damaged: {error}") from error
  return problem

"""Flags in, one checked `Experiment` out.

Every field of every config is a flag; its help is the field's line in the config's
docstring. A flag that is not given takes the value the workdir already holds, else
the preset's.
"""

import dataclasses
import re
import typing
from collections.abc import Mapping
from typing import Any

from absl import flags

from experiments.config import presets
from experiments.config import settings as settings_lib
from experiments.config.path_flags import define_path
from jaxdm.errors import UserError
from jaxdm.training.speed import Speed

_DEFINE: dict[Any, Any] = {
  bool: flags.DEFINE_bool,
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  str: flags.DEFINE_string,
}

WORKDIR = define_path(
  "workdir", None, "Folder for all files of the experiment. An existing one is continued."
)
BANK_DIR = define_path(
  "bank_dir",
  None,
  "Folder, or gs:// bucket, for the stores of models; default: WORKDIR/bank.",
)
PRESET = flags.DEFINE_enum(
  "preset",
  None,
  list(presets.PRESETS),
  "Named experiment with default settings; default: the preset that the workdir was "
  "created with, else fashion.",
)
DATA_DIR = define_path(
  "data_dir",
  None,
  "Folder of the prepared TFDS data sets. With --dataset=folder: a folder with the files "
  "train/CLASS/FILE and test/CLASS/FILE, images of the same size. Needed only once per "
  "workdir.",
)
ARRAYS = define_path(
  "arrays",
  None,
  "With --dataset=arrays: an .npz file with train_images, train_labels, test_images, "
  "test_labels and, optionally, class_names. Needed only once per workdir.",
)

# Flags that say where the files of an experiment are, and where its data.
PLACES = (WORKDIR, BANK_DIR)
SOURCES = (PRESET, DATA_DIR, ARRAYS)

GROUPS = typing.get_type_hints(settings_lib.Experiment)
# What a fit of models that others trained settles for all that follows.
_FIELDS_OF_FILES = ("num_held_out",)


def _field_help(config: type) -> dict[str, str]:
  """The Attributes section of a config's docstring, by field."""
  text = (config.__doc__ or "").partition("Attributes:")[2]
  entries = re.findall(r"^    (\w+): (.*(?:\n      .*)*)", text, re.MULTILINE)
  return {name: re.sub(r"\s+", " ", line) for name, line in entries}


class _NumberOrWord(flags.ArgumentParser[int | str]):
  """A whole number, or one of some words."""

  def __init__(self, words: tuple[str, ...]):
    self._words = words
    self.syntactic_help = f"a whole number or {' or '.join(words)}"

  def parse(self, argument: Any) -> int | str:
    """The number or the word; ValueError on anything else."""
    if argument in self._words:
      return str(argument)
    try:
      return int(argument)
    except ValueError:
      raise UserError(None, f"must be {self.syntactic_help}") from None

  def flag_type(self) -> str:
    """For --help."""
    return f"an integer or {' or '.join(self._words)}"


def _kinds(hint: Any) -> tuple[list[Any], tuple[str, ...]]:
  """The plain types that a field may have, and the words."""
  if typing.get_origin(hint) is typing.Literal:
    return [], typing.get_args(hint)
  parts = typing.get_args(hint) or (hint,)
  words = [w for part in parts for w in typing.get_args(part)]
  return [part for part in parts if part in _DEFINE], tuple(words)


def _define_flags() -> None:
  """One flag a field; `None` means that it was not given."""
  for config in (*GROUPS.values(), Speed):
    helps = _field_help(config)
    for name, hint in typing.get_type_hints(config).items():
      if name in flags.FLAGS:
        continue
      kinds, words = _kinds(hint)
      if not words:
        _DEFINE[kinds[0]](name, None, helps[name])
      elif not kinds:
        flags.DEFINE_enum(name, None, list(words), helps[name])
      else:
        parser = _NumberOrWord(words)
        flags.DEFINE(
          parser, name, None, helps[name], serializer=flags.ArgumentSerializer()
        )


_define_flags()


def _flag_values(config: type) -> dict[str, Any]:
  """The fields of a config that the command line sets."""
  names = [field.name for field in dataclasses.fields(config)]
  values = {name: flags.FLAGS[name].value for name in names}
  return {name: value for name, value in values.items() if value is not None}


def flag_fields() -> set[str]:
  """The fields of all configs that the command line sets."""
  return {name for config in (*GROUPS.values(), Speed) for name in _flag_values(config)}


def preset(stored: Mapping[str, Mapping[str, Any]]) -> str:
  """The name of the preset that the command line, or else a workdir, asks for."""
  return PRESET.value or stored.get("start", {}).get("preset", "fashion")


def names_images(stored: Mapping[str, Mapping[str, Any]]) -> bool:
  """Whether the command line or a workdir says which images are used."""
  values = (DATA_DIR.value, ARRAYS.value, PRESET.value, flags.FLAGS["dataset"].value)
  return any(values) or "data" in stored


def speed() -> Speed:
  """Speed settings: they may change between runs of one experiment."""
  return Speed(**_flag_values(Speed))


def experiment(stored: Mapping[str, Mapping[str, Any]]) -> settings_lib.Experiment:
  """The experiment that the command line and a workdir describe together.

  Args:
    stored: the settings that the workdir holds, by group.

  Raises:
    UserError: on a value that no config accepts, or a setting that none has.
  """
  start = presets.PRESETS[preset(stored)]()
  # A flag sets its field, as the seed, in all groups that have it; so does a workdir.
  stored_fields = {k: v for name in GROUPS for k, v in stored.get(name, {}).items()}
  before = stored.get("start", {}).get("preset")
  if PRESET.value not in (None, before):  # Which has settings of its own.
    # Of models that others trained, without a preset, as many as before judge the fit.
    kept = () if before else _FIELDS_OF_FILES
    stored_fields = {k: v for k, v in stored_fields.items() if k in kept}
    stored = {}
  groups = {}
  for name, config in GROUPS.items():
    base, values = stored.get(name), _flag_values(config)
    if name == "data" and ARRAYS.value:
      values = {"dataset": "arrays"} | values  # What the file is for.
    if base is None:
      base = dataclasses.asdict(getattr(start, name))
      base |= {field: stored_fields[field] for field in base if field in stored_fields}
    if values.get("dataset", base.get("dataset")) != base.get("dataset"):
      base = {}  # The preset's choice of classes and sizes is about other images.
    unknown = base.keys() - {field.name for field in dataclasses.fields(config)}
    if unknown:
      raise UserError(
        "workdir",
        f"was begun with another version, which had {', '.join(sorted(unknown))}",
      )
    groups[name] = config(**{**base, **values})
  _check_sources(groups["data"])
  return settings_lib.Experiment(**groups)


def _check_sources(config: settings_lib.DataConfig) -> None:
  """Raises UserError on a flag that says nothing of the dataset that is used."""
  dataset = config.dataset
  if ARRAYS.value and dataset != "arrays":
    raise UserError("arrays", f"is for --dataset=arrays, got --dataset={dataset}")
  if dataset not in ("fashion", "arrays"):
    return
  if DATA_DIR.value:
    raise UserError(
      "data_dir",
      "is for --dataset=folder and for the names of TFDS sets, such as "
      f"--dataset=cifar10; got --dataset={dataset}",
    )
  if config.background != settings_lib.DataConfig.background:
    raise UserError(
      "background", f"is for image files; got --dataset={dataset}, which has none"
    )

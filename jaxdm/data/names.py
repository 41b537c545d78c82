"""Names of examples: what is printed of them, and which target a name stands for."""

import difflib

from jaxdm.data.dataset import Dataset
from jaxdm.errors import UserError, first_few

_MOST_NAMES = 3


def describe_target(dataset: Dataset, target: int) -> str:
  """A target's index, class and source, as '7 (shirt, test/shirt/007.png)'."""
  name = dataset.class_names[dataset.test_labels[target]]
  return f"{target} ({name}, {dataset.test_sources[target]})"


def describe_example(dataset: Dataset, example: int) -> str:
  """The same of a training example."""
  name = dataset.class_names[dataset.train_labels[example]]
  return f"{example} ({name}, {dataset.train_sources[example]})"


def thumbnail_title(dataset: Dataset, example: int) -> str:
  """Two short lines on a training example: index and class, and the file's name."""
  name = dataset.class_names[dataset.train_labels[example]]
  _, slash, file = dataset.train_sources[example].rpartition("/")
  return f"{example}: {_shorten(name)}" + (f"\n{_shorten(file)}" if slash else "")


def find_target(dataset: Dataset, text: str, setting: str = "target") -> int:
  """The index of the target that a user names.

  Args:
    dataset: whose targets they are.
    text: an index; or a source, of which the first folders may be left out or be preceded
      by others: of test/disc/1.png also disc/1.png, 1.png and mine/test/disc/1.png.
    setting: through which the user has named it, for errors.

  Raises:
    UserError: on an index out of range, or a name of no target or of several; names that
      are near are listed.
  """
  count, sources = len(dataset.test_labels), dataset.test_sources
  if text.removeprefix("-").isdecimal():
    if not 0 <= int(text) < count:
      raise UserError(setting, f"must be in [0, {count}), got {int(text)}")
    return int(text)
  indices = [i for i, source in enumerate(sources) if _is_name(text, source)]
  if len(indices) == 1:
    return indices[0]
  if indices:
    found = [describe_target(dataset, i) for i in indices]
    raise UserError(
      setting,
      f"={text} names {len(indices)} targets: {first_few(found, _MOST_NAMES)}",
    )
  depth = text.count("/") + 1
  names = ["/".join(source.split("/")[-depth:]) for source in sources]
  near = difflib.get_close_matches(text, dict.fromkeys(names), _MOST_NAMES, cutoff=0.5)
  hint = f"near are {', '.join(near)}" if near else f"the first is {sources[0]}"
  raise UserError(setting, f"={text} names no target; {hint}")


def _is_name(text: str, source: str) -> bool:
  """Whether one is the other, or its end from the beginning of a folder or file."""
  short, long = sorted((text, source), key=len)
  return short == long or (bool(short) and long.endswith(f"/{short}"))


def _shorten(text: str) -> str:
  """Text that fits over a small picture: the end of a long one."""
  return text if len(text) <= 16 else f"...{text[-13:]}"

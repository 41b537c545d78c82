"""What `--help` prints: flags by topic, the common ones first."""

import dataclasses
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from absl import flags

from experiments.config import experiment_flags, presets
from experiments.runtime import program
from jaxdm.training.speed import Speed

_WIDTH = 88
_HELP_FLAGS = {"--help", "-help", "-h", "--h", "-?", "--helpshort", "--helpfull"}
# Settings that most runs change, or that a newcomer needs; all others come later.
_COMMON = {
  *("dataset", "classes", "train_per_class", "test_per_class", "downscale"),
  *("alpha", "num_models", "num_held_out", "num_base", "seed", "audit"),
  *("retrain", "network", "width", "epochs", "batch_size", "peak_learning_rate"),
  *("max_share", "num_targets", "confidence"),
  *("methods", "search_targets", "flip_to"),
}
_TOPICS = {
  "data": "Data",
  "collect": "Models to train",
  "audit": "Audit of the training set",
  "retrain": "Your own training",
  "network": "Network",
  "train": "Training of one model",
  "gradient": "Gradient-based methods",
  "prior": "Priors of the datamodels",
  "fit": "Fitting of the datamodels",
  "search": "Search and verification",
  "compare": "Methods and targets",
  "flip": "Label flips",
}


_ALL_SETTINGS = (
  "Other settings of an experiment can be given, too; python -m experiments.pipeline\n"
  "--help lists all."
)


class Section(NamedTuple):
  """Some flags under a heading."""

  title: str
  names: Sequence[str]


def print_and_exit(
  *modules: ModuleType,
  extra: Collection[flags.FlagHolder[Any]] = (),
  groups: Collection[str] | None = None,
) -> None:
  """Prints the help of the running program and exits, if the command line asks for it.

  Args:
    *modules: whose flags it has, beside those of its own module.
    extra: further flags that it has.
    groups: of the settings of an experiment, those that are listed; None: the program
      takes no settings.
  """
  before = sys.argv[: sys.argv.index("--")] if "--" in sys.argv else sys.argv
  if not _HELP_FLAGS & set(before[1:]):
    return
  names = [sys.argv[0], *(module.__name__ for module in modules)]
  own = {f.name for n in names for f in flags.FLAGS.get_key_flags_for_module(n)}
  own |= {flag.name for flag in extra}
  about = sys.modules["__main__"].__doc__ or ""
  with program.one_line_errors():
    print(page(about, own, groups), flush=True)
  sys.exit(0)


def page(about: str, own: Iterable[str], groups: Collection[str] | None) -> str:
  """The help of a program.

  Args:
    about: the program's docstring.
    own: names of its own flags, and of those that say where things are.
    groups: of the settings of an experiment, those that are listed; None: the program
      takes no settings.
  """
  sections = [Section("Options of this program", sorted(own))]
  lines = [about.strip(), ""]
  if groups is not None:
    common, rare = settings_sections(groups)
    sections += [*common, Section("", ()), *rare] if groups else []
    lines += [
      "A setting that is not given has the value of the workdir, or else of the preset.",
      "In square brackets: the values of the preset fashion.",
    ]
    if set(groups) != set(experiment_flags.GROUPS):
      lines += [_ALL_SETTINGS]
    lines += [""]
  for title, names in sections:
    if not title:
      lines += [
        "Settings that are rarely changed",
        "--------------------------------",
        "",
      ]
      continue
    lines += [f"{title}:", *(_entry(name) for name in names), ""]
  return "\n".join(lines)


def settings_sections(
  groups: Collection[str] = tuple(experiment_flags.GROUPS),
) -> tuple[list[Section], list[Section]]:
  """Settings of an experiment by topic: common ones, and the rest.

  Args:
    groups: those that are listed.
  """
  common: list[Section] = []
  rare: list[Section] = []
  names_so_far: set[str] = set()  # One flag sets a field, as the seed, in all groups.
  for group, config in experiment_flags.GROUPS.items():
    names = [f.name for f in dataclasses.fields(config) if f.name not in names_so_far]
    if group not in groups:
      continue
    names_so_far |= set(names)
    for sections, is_common in ((common, True), (rare, False)):
      section_names = [name for name in names if (name in _COMMON) == is_common]
      if section_names:
        sections.append(Section(_TOPICS[group], section_names))
  speed = [field.name for field in dataclasses.fields(Speed)]
  return common, [*rare, Section("Speed (changes results by rounding only)", speed)]


def describe(name: str) -> tuple[str, str]:
  """A flag as it is written, and what it does."""
  flag: Any = flags.FLAGS[name]
  shown = f"--[no]{name}" if flag.boolean else f"--{name}"
  text = " ".join((flag.help or "").split())
  text = text.removesuffix("; repeat this option to specify a list of values")
  return shown, f"{text}{_default(name, flag)}"


def _entry(name: str) -> str:
  """A flag's lines."""
  return textwrap.fill(
    ": ".join(describe(name)),
    _WIDTH,
    initial_indent="  ",
    subsequent_indent="      ",
    break_long_words=False,
    break_on_hyphens=False,
  )


def _default(name: str, flag: Any) -> str:
  """What holds if a flag is not given, in brackets."""
  value = flag.default
  if value is None:
    experiment = presets.PRESETS["fashion"]()
    for group in dataclasses.fields(experiment):
      config = getattr(experiment, group.name)
      if hasattr(config, name) and getattr(config, name) not in (None, ""):
        return f" [fashion: {getattr(config, name)}]"
  if value in (None, False, []):
    return ""
  return f" [{','.join(map(str, value)) if isinstance(value, list) else value}]"

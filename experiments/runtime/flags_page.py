"""The page of all programs and flags, made of the definitions that `--help` prints."""

import ast
import contextlib
import html
import importlib
import pathlib
import re
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from absl import flags

from experiments.config import experiment_flags
from experiments.runtime import help as help_page
from experiments.runtime import launcher, processes

_ROOT = pathlib.Path(__file__).parents[2]
_FOLDERS = {
  "": "The pipeline, its stages, and what follows them",
  "studies": "Studies of a finished workdir",
  "ops": "Stores, machines and data sets",
  "bench": "Benchmarks",
}


class Module(NamedTuple):
  """A module of the programs.

  Attributes:
    name: such as experiments.report.
    about: its docstring.
    is_program: whether `python -m` runs it.
  """

  name: str
  about: str
  is_program: bool


def modules() -> list[Module]:
  """All modules of the programs, imported if the packages that they need are there."""
  entries = []
  for path in sorted((_ROOT / "experiments").rglob("[!_]*.py")):
    source = path.read_text(encoding="utf-8")
    about = ast.get_docstring(ast.parse(source)) or ""
    name = ".".join(path.relative_to(_ROOT).with_suffix("").parts)
    entries.append(Module(name, about, "\nif __name__ ==" in source))
    with contextlib.suppress(ModuleNotFoundError):  # Of the extra `bench`.
      importlib.import_module(name)
  return entries


def page() -> str:
  """Markdown: the settings of an experiment by topic, then every program."""
  entries = modules()
  common, rare = help_page.settings_sections()
  own = experiment_flags
  parts = [
    "## Where things are",
    _entries(flag.name for flag in own.PLACES + own.SOURCES),
  ]
  for heading, sections in (
    ("Settings of an experiment", common),
    ("Settings that are rarely changed", rare),
  ):
    parts.append(f"## {heading}")
    for title, names in sections:
      parts += [f"### {title}", _entries(names)]
  parts.append("## Flags of several programs")
  for module in entries:
    if not module.is_program and module.name != own.__name__ and _own(module.name):
      parts += [f"### {module.name}", module.about.splitlines()[0], _entries_of(module)]
  for folder, heading in _FOLDERS.items():
    parts.append(f"## {heading}")
    for module in entries:
      if module.is_program and ".".join(module.name.split(".")[1:-1]) == folder:
        parts += [f"### {module.name}", f"```text\n{module.about}\n```"]
        parts += [_accepted(module.name), _entries_of(module)]
  return "\n\n".join(part for part in parts if part) + "\n"


def _own(name: str) -> list[str]:
  """The flags that a module defines."""
  return sorted(flag.name for flag in flags.FLAGS.flags_by_module_dict().get(name, []))


def _entries_of(module: Module) -> str:
  """The flags that a module defines, as a list."""
  return _entries(_own(module.name))


def _entries(names: Iterable[str]) -> str:
  """Flags as a list."""
  return "\n".join(_entry(*help_page.describe(name)) for name in names)


def _entry(shown: str, text: str) -> str:
  """One item of a list; the text of a flag is no Markdown."""
  escaped = re.sub(r"([*_`])", r"\\\1", html.escape(text, quote=False))
  return f"- `{shown}`: {escaped}"


def _accepted(name: str) -> str:
  """Which other flags a program takes."""
  program: Any = getattr(sys.modules.get(name), "PROGRAM", None)
  if program is None:
    return ""
  has_settings = program.opener is not launcher.open_workdir
  takes = ["settings of an experiment"] if has_settings else ["`--workdir`"]
  others = [module.__name__ for module in program.flag_modules]
  if program.hold in ("shared", "job"):
    others.append(processes.__name__)
  takes += [f"flags of `{other}`" for other in others]
  return f"Accepts {', '.join(takes)}."

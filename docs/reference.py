"""Writes docs/reference.md from the docstrings of the public names.

python docs/reference.py
"""

import inspect
import pathlib
import re

import jaxdm

_HEAD = """# Reference

Every name of `import jaxdm`, from its docstring (`python docs/reference.py` writes it).
Axis letters of arrays: m models, n training examples, t targets, k classes, r models on
all data. Margins are correct-class logits minus the largest other ones: positive where a
prediction is right.
"""


def entry(name: str) -> str:
  """One name: its signature and its docstring."""
  value = getattr(jaxdm, name)
  is_plain = inspect.isfunction(value) or name == "Trainer"
  signature = f"{name}{inspect.signature(value)}" if is_plain else f"class {name}"
  signature = re.sub(r" at 0x[0-9a-f]+", "", signature)  # Other in every process.
  doc = inspect.getdoc(value)
  if name == "Trainer":
    doc = f"{doc}\n\n{inspect.getdoc(value.__init__)}\n\n{inspect.getdoc(value.__call__)}"
  return f"### {name}\n\n```text\n{signature}\n```\n\n```text\n{doc}\n```\n"


def page() -> str:
  """The whole page."""
  names = sorted(jaxdm.__all__, key=str.lower)
  return "\n".join([_HEAD, *map(entry, names)])


if __name__ == "__main__":
  path = pathlib.Path(__file__).with_name("reference.md")
  path.write_text(page(), encoding="utf-8")

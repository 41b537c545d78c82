"""Examples in docstrings (`>>>`) as blocks of code, for the site's page of names."""

import re

import griffe

# From the first prompt of a paragraph to the next empty line.
_BLOCK = re.compile(r"(?m)^(?P<indent> *)>>> (?:.*\n?)(?:(?! *$).*\n?)*")


def fence(text: str) -> str:
  """A docstring whose examples stand in fences."""
  return _BLOCK.sub(lambda found: f"```pycon\n{found.group().rstrip()}\n```\n", text)


class DoctestBlocks(griffe.Extension):
  """Puts fences around the examples of all docstrings."""

  def on_object(self, *, obj: griffe.Object, **_: object) -> None:
    """Changes one docstring when it has been read."""
    if obj.docstring:
      obj.docstring.value = fence(obj.docstring.value)

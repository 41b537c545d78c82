"""The one type of error that a user can mend, and checks that many settings share."""

import dataclasses
import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np


class UserError(ValueError):
  """Settings, files or a machine that cannot be used; the message says what to change.

  >>> import jaxdm
  >>> try:
  ...   jaxdm.TrainConfig(momentum=2.0)
  ... except jaxdm.UserError as error:
  ...   print(error.setting, "|", error)
  momentum | momentum must be in [0, 1), got 2.0

  Programs print it as one line. A ValueError of any other class is a mistake in code, of
  this library or of its caller, and keeps its traceback.

  Attributes:
    setting: the field or argument that is to be changed; None where it is none.
  """

  def __init__(self, setting: str | None, text: str):
    """Takes the message in two parts.

    Args:
      setting: see above. The message begins with it.
      text: the rest of the message, as in `UserError("alpha", "must be below 1")` or
        `UserError("arrays", "=mine.npz cannot be read")`.
    """
    super().__init__(setting, text)  # Both, so that copies and pickles are made of both.
    self.setting = setting

  def __str__(self) -> str:
    setting, text = self.args
    if setting is None:
      return text
    return f"{setting}{text}" if text.startswith(("=", ":", ",")) else f"{setting} {text}"


def first_few(values: Sequence[Any] | np.ndarray, count: int = 10) -> str:
  """The first of some values as text, with dots if there are more."""
  text = ", ".join(str(value) for value in values[:count])
  return text + (", ..." if len(values) > count else "")


def check_kind(name: str, value: Any, kind: type) -> None:
  """Raises UserError if a value is of another type."""
  if not isinstance(value, kind):
    raise UserError(name, f"must be a {kind.__name__}, got {type(value).__name__}")


def use_python_numbers(config: Any) -> None:
  """Replaces a frozen dataclass's NumPy numbers by Python's, which JSON can hold."""
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if isinstance(value, np.generic):
      object.__setattr__(config, field.name, value.item())


def check_count(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
  """An integer in [least, most] as int; raises UserError on anything else."""
  try:
    count = None if isinstance(value, bool) else operator.index(value)
  except TypeError:
    count = None
  if count is None or count < least or (most is not None and count > most):
    accepted = f">= {least}" if most is None else f"in [{least}, {most}]"
    raise UserError(name, f"must be an integer {accepted}, got {value!r}")
  return count


def check_seed(value: Any, name: str = "seed") -> int:
  """An integer in [0, 2**32) as int; raises UserError on anything else."""
  try:
    return check_count(name, value, 0, 2**32 - 1)
  except UserError:
    raise UserError(name, f"must be an integer in [0, 2**32), got {value!r}") from None


def check_number(
  name: str,
  value: Any,
  *,
  above: float | None = None,
  least: float | None = None,
  below: float | None = None,
) -> float:
  """A finite real number in a range as float; raises UserError on anything else.

  Args:
    name: of the setting.
    value: of the setting.
    above: the value must be larger.
    least: the value must not be smaller. At most one of this and `above` is given.
    below: the value must be smaller. It is given only together with one of these.
  """
  if not isinstance(value, numbers.Real) or isinstance(value, bool):
    raise UserError(name, f"must be a number, got {value!r}")
  number = float(value)
  if not all(
    (
      math.isfinite(number),
      above is None or number > above,
      least is None or number >= least,
      below is None or number < below,
    )
  ):
    raise UserError(name, f"must be {_range_text(above, least, below)}, got {value!r}")
  return number


def _range_text(above: float | None, least: float | None, below: float | None) -> str:
  """The range of a finite number in words."""
  if below is not None:
    start = f"({above:g}" if least is None else f"[{least:g}"
    return f"in {start}, {below:g})"
  if above is not None:
    return "positive" if above == 0 else f"> {above:g}"
  return "a finite number" if least is None else f">= {least:g}"


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
  """Raises UserError on a value that is not one of the choices."""
  if not isinstance(value, str) or value not in choices:
    *before, last = choices
    raise UserError(name, f"must be {', '.join(before)} or {last}, got {value!r}")

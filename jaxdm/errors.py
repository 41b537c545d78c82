"""The one type of error that a user can mend, and a check that many settings share."""

import operator
from typing import Any


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

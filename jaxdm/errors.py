"""The one type of error that a user can mend, and a check that many settings share."""

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


def check_count(name: str, value: Any, least: int = 1) -> int:
  """A whole number as int; raises UserError on anything else, or if it is too small."""
  try:
    count = int(value)
  except (TypeError, ValueError, OverflowError):
    count = least - 1
  if count < least or count != value:
    raise UserError(name, f"must be an integer >= {least}, got {value!r}")
  return count

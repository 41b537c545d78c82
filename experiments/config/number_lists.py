"""Flags that are lists of numbers."""

from collections.abc import Sequence

from jaxdm.errors import UserError


def whole_numbers(
  name: str, texts: Sequence[str], allowed: str, least: int = 1, most: int | None = None
) -> list[int]:
  """The numbers of a flag.

  Args:
    name: of the flag.
    texts: its values.
    allowed: says in errors which numbers are.
    least: the smallest one that is.
    most: the largest one; None: there is none.

  Raises:
    UserError: on anything else.
  """
  numbers = [int(text) for text in texts if text.isdecimal()]
  beyond = [x for x in numbers if x < least or (most is not None and x > most)]
  if len(numbers) < len(texts) or beyond:
    raise UserError(name, f"must be {allowed}, got {','.join(texts)}")
  return numbers


def shares(name: str, texts: Sequence[str], below: float) -> list[float]:
  """The shares of a flag, one or more in (0, below).

  Raises:
    UserError: on anything else.
  """
  try:
    numbers = [float(text) for text in texts]
  except ValueError:
    numbers = []
  if not numbers or not all(0 < share < below for share in numbers):
    raise UserError(name, f"must be numbers in (0, {below:g}), got {','.join(texts)}")
  return numbers

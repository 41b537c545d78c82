"""How many lassos of one design are solved at a time, and in which form of the design.

A plan says how much memory a solution takes. It decides the last bits of the results, so
that whoever continues a computation must follow the plan that it was begun with.
"""

import warnings
from typing import NamedTuple, get_args

from jaxdm import devices
from jaxdm.errors import UserError, check_choice, check_count
from jaxdm.lasso.design import Form
from jaxdm.matrices import BLOCK_BYTES

# Numbers of four bytes a target and column: iterates, their successors, float64 checks.
_TARGET_NUMBERS = 24
_LEAST_TILE = 64
_MOST_TILE = 4096


class Plan(NamedTuple):
  """How many lassos of one design are solved: it decides the last bits of the results.

  A plan that has been made on one machine can be followed on any other.

  Attributes:
    form: of the design.
    tile: targets at a time.
    lanes: equal parts of a tile, which divide it; each is solved by one device.
  """

  form: Form
  tile: int
  lanes: int

  def __str__(self) -> str:
    return f"{self.form}, {self.tile} targets at a time in {self.lanes} lanes"


def choose(
  m: int,
  n: int,
  t: int,
  *,
  is_bool: bool,
  form: Form | None = None,
  tile: int | None = None,
  processes: int = 1,
  free_bytes: int | None = None,
) -> Plan:
  """Chooses the form of a design and how many targets fit beside it.

  A step costs n^2 products a target through the Gram and 2 m n through the rows, so the
  Gram is taken unless m is below n / 2; what does not fit is not taken.

  Args:
    m: rows.
    n: columns.
    t: targets.
    is_bool: whether X is of zeros and ones.
    form: to force one.
    tile: to force one.
    processes: that share the targets: a tile for each of them at least.
    free_bytes: that may be used; None: `devices.free_bytes()`.

  Returns:
    A plan with a lane for each local device.

  Raises:
    UserError: if no form fits beside a single target, `form` is another text, or `tile`
      is not a positive integer.
    ValueError: if `form` is 'bits' and X real.
  """
  free_bytes = devices.free_bytes() if free_bytes is None else free_bytes
  if form is not None:
    check_choice("form", form, get_args(Form))
  tile = None if tile is None else check_count("tile", tile)
  if form == "bits" and not is_bool:
    raise ValueError("form bits needs a bool design")
  lanes = devices.count()
  form = form or _first_that_fits(m, n, t, lanes, free_bytes, is_bool=is_bool)
  if tile is None:
    room = free_bytes - _fixed_bytes(form, m, n, lanes)
    most = room // 2 // _target_bytes(m, n) * _spread_by(lanes)
    tile = min(_MOST_TILE, max(1, most))
  tile = min(tile, -(-t // processes))
  plan = Plan(form, -(-tile // lanes) * lanes, lanes)
  check_room(plan, m, n, free_bytes=free_bytes)
  return plan


def _first_that_fits(
  m: int, n: int, t: int, lanes: int, free_bytes: int, *, is_bool: bool
) -> Form:
  """The form with the fewest operations of those that fit beside some targets."""
  order: list[Form] = ["gram", "rows"] if 2 * m >= n else ["rows", "gram"]
  if is_bool:
    order.append("bits")
  for form in order:
    room = free_bytes - _fixed_bytes(form, m, n, lanes)
    if room >= _target_bytes(m, n) * min(t, _LEAST_TILE):
      return form
  raise UserError(
    None, f"a design of {m} x {n} does not fit in {free_bytes / 1e9:.1f} GB in any form"
  )


def check_room(plan: Plan, m: int, n: int, *, free_bytes: int | None = None) -> None:
  """Warns where a plan needs more memory than is free.

  A plan that was made elsewhere is followed all the same: other tiles would have other
  names and other bits.

  Args:
    plan: made anywhere.
    m: rows.
    n: columns.
    free_bytes: that may be used; None: `devices.free_bytes()`.

  Raises:
    UserError: if not even a tile of one target in each lane fits beside the design.
  """
  free_bytes = devices.free_bytes() if free_bytes is None else free_bytes
  least = peak_bytes(plan._replace(tile=plan.lanes), m, n)
  if least > free_bytes:
    raise UserError(
      None,
      f"a design of {m} x {n} in form {plan.form} needs {least / 1e9:.2f} GB, and "
      f"{free_bytes / 1e9:.2f} GB are free; free some, or use a machine with more",
    )
  needed = peak_bytes(plan, m, n)
  if needed > free_bytes:
    warnings.warn(
      f"the plan ({plan}) needs about {needed / 1e9:.2f} GB, and "
      f"{free_bytes / 1e9:.2f} GB are free; it is followed, since another one would "
      "change the results",
      stacklevel=2,
    )


def peak_bytes(plan: Plan, m: int, n: int) -> int:
  """Expected peak memory of this process, of one device where devices have their own.

  Args:
    plan: to follow.
    m: rows.
    n: columns.
  """
  per_tile = _target_bytes(m, n) * plan.tile // _spread_by(plan.lanes)
  return _fixed_bytes(plan.form, m, n, plan.lanes) + per_tile


def _fixed_bytes(form: Form, m: int, n: int, lanes: int) -> int:
  """What the design takes, and a block of its rows on the way there."""
  # Each device holds the design, and one more, twice as wide, is there while it is made.
  copies = devices.count_for(lanes) if devices.share_memory() else 1
  numbers = {"gram": n * n, "rows": m * n, "bits": m * n // 32}[form]
  return (4 * copies + 8) * numbers + 2 * min(BLOCK_BYTES, 8 * m * n)


def _target_bytes(m: int, n: int) -> int:
  """What one target takes."""
  return _TARGET_NUMBERS * n * 4 + 32 * m


def _spread_by(lanes: int) -> int:
  """Devices with memory of their own that share the targets of a tile."""
  return 1 if devices.share_memory() else devices.count_for(lanes)

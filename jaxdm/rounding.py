"""Exact shares of counts."""

import fractions

_MOST_DENOMINATOR = 10**10


def share_of(share: float, count: int) -> fractions.Fraction:
  """A share of a count, without the rounding errors of a float product.

  `0.29 * 100` is 28.999999999999996, so that rounding it down loses one. Here the share
  is the simplest fraction that the float stands for, 29/100, and 1/3 is one third.

  Args:
    share: finite.
    count: an integer.

  Returns:
    The product, for `round`, `math.floor` or `math.ceil`.
  """
  exact = fractions.Fraction(float(share)).limit_denominator(_MOST_DENOMINATOR)
  return exact * int(count)

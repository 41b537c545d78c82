import itertools
import math

import pytest
from support.pages import verdict

from jaxdm.brittleness.comparison import compare_methods, holm


def test_pairs_are_counted_by_target() -> None:
  sizes = {"a": [1, 2, 3, -1, -1, 4], "b": [2, 2, -1, -1, 5, 1]}
  found = compare_methods(
    [verdict(t, name, k) for name, ks in sizes.items() for t, k in enumerate(ks)]
  )
  # a wins targets 0 and 2, b wins 4 and 5; 1 and 3 are ties.
  assert [(c.wins, c.losses, c.p) for c in found] == [(2, 2, 1.0)]


def test_the_better_method_is_the_first_and_p_is_of_fair_coins() -> None:
  sizes = {"bad": [5] * 9 + [1], "good": [2] * 10}
  [found] = compare_methods(
    [verdict(t, name, k) for name, ks in sizes.items() for t, k in enumerate(ks)]
  )
  assert found[:4] == ("good", "bad", 9, 1)
  as_extreme = sum(math.comb(10, heads) for heads in range(11) if abs(heads - 5) >= 9 - 5)
  assert found.p == pytest.approx(as_extreme / 2**10)


def test_fewer_pairs_are_corrected_less() -> None:
  sizes = {"a": [1] * 9, "b": [2] * 9, "c": [3] * 8 + [1]}
  verdicts = [verdict(t, name, k) for name, ks in sizes.items() for t, k in enumerate(ks)]
  [alone] = compare_methods(verdicts, [("b", "a")])
  assert (alone.first, alone.second, alone.wins, alone.losses) == ("a", "b", 9, 0)
  assert alone.p == pytest.approx(2 / 2**9)
  in_all = {(c.first, c.second): c.p for c in compare_methods(verdicts)}
  assert len(in_all) == 3 and in_all["a", "b"] == pytest.approx(3 * 2 / 2**9)


def test_searches_that_are_not_finished_do_not_count() -> None:
  found = compare_methods(
    [verdict(0, "a", 1), verdict(0, "b", -1, finished=False), verdict(1, "b", 2)]
  )
  assert [(c.wins, c.losses, c.p) for c in found] == [(0, 0, 1.0)]


def test_corrected_p_values_reject_what_holms_procedure_rejects() -> None:
  values = (0.001, 0.012, 0.02, 0.3, 0.8)
  for ascending in itertools.combinations(values, 4):
    corrected = holm(ascending)
    for level in (0.002, 0.01, 0.04, 0.05, 0.1, 0.5):
      rejected = 0
      while rejected < 4 and ascending[rejected] <= level / (4 - rejected):
        rejected += 1
      assert sum(p <= level for p in corrected) == rejected


def test_pairs_in_any_order_are_corrected_from_the_smallest_p_on() -> None:
  sizes = {"a": [2] * 10, "b": [3] * 9 + [1], "c": [3] * 10}
  found = compare_methods(
    [verdict(t, name, k) for name, ks in sizes.items() for t, k in enumerate(ks)],
    [("b", "c"), ("a", "b"), ("c", "a")],
  )
  # Of 10 to 0, 9 to 1, and 1 to 0 targets.
  p = 3 * 2 / 2**10, 2 * 2 * (1 + 10) / 2**10, 1.0
  assert [(c.first, c.second) for c in found] == [("a", "c"), ("a", "b"), ("b", "c")]
  assert [c.p for c in found] == pytest.approx(p)

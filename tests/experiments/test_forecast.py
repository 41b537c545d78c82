import dataclasses
import types

import numpy as np
import pytest

from experiments.config.settings import CollectConfig, CompareConfig
from experiments.runtime import forecast, searches
from jaxdm.brittleness.config import SearchConfig
from jaxdm.storage import step_checkpoints


def test_the_first_steps_are_timed_and_compilation_is_not(tmp_path, capsys) -> None:
  now = 0.0
  timer = forecast.StepTimer()
  timer.announce(lambda seconds: f"{seconds:g} s a step")

  def advance(state: int, first: int, stop: int) -> int:
    nonlocal now
    now += 0.25 * (stop - first) + (100 if first < 2 else 0)  # Both are compiled.
    return state

  checkpoints = step_checkpoints.Checkpoints(tmp_path, 1e9, lambda: now, timer.observe)
  checkpoints.run("a", 0, 0, 3, advance)
  assert capsys.readouterr().out == ""
  checkpoints.run("b", 0, 0, 100, advance)
  checkpoints.run("c", 0, 0, 100, advance)
  assert capsys.readouterr().out == "0.25 s a step\n"  # Once.


def test_all_that_was_announced_is_said_unless_it_is_over(capsys) -> None:
  timer = forecast.StepTimer()
  timer.announce(lambda seconds: f"search {seconds:g}")
  timer.forget()
  for name in ("a", "b"):
    timer.announce(lambda seconds, name=name: f"{name} {seconds:g}")
  for _ in range(3):
    timer.observe(8, 4.0)
  assert capsys.readouterr().out == "a 0.5\nb 0.5\n"


def test_searches_and_models_on_all_examples_have_forecasts() -> None:
  text = forecast.search_costs("search", 10, 68, None, 0.5)
  assert "between 10 and 680 models for 10 pairs" in text and "5 s to 5.7 min" in text
  assert "between 10 and 50 models" in forecast.search_costs("search", 10, 68, 50, 0.5)
  assert "between 7 and 7 models" in forecast.search_costs("search", 10, 68, 7, 0.5)
  plain = forecast.base_costs(16, 0, 300, 2.0, 8)
  assert plain == "16 models on all examples take about 32 s"
  assert "about 40 s" in forecast.base_costs(16, 0, 300, 2.0, 20)  # A whole call.
  text = forecast.base_costs(16, 12, 300, 2.0, 8)
  assert text.startswith(plain) and "300 examples at 12 moments" in text
  assert "not timed yet" in text


def test_costs_are_of_the_missing_models_and_of_other_numbers() -> None:
  text = forecast.costs(num_models=100, missing=140, processes=1, model_seconds=3.0)
  assert "3 s a model here: 140 models on subsets take about 7.0 min" in text
  assert "--num_models=50: 4.5 min, --num_models=200: 12.0 min" in text
  shared = forecast.costs(num_models=100, missing=35, processes=4, model_seconds=4.0)
  assert "--num_models=50: 90 s, --num_models=200: 4.0 min" in shared


@pytest.mark.parametrize(
  "seconds,text",
  [
    (0, "0 s"),
    (0.4, "1 s"),
    (119, "119 s"),
    (150, "2.5 min"),
    (7200, "2.0 h"),
    (432000, "5.0 days"),
  ],
)
def test_times_have_the_unit_that_suits_them(seconds, text) -> None:
  assert forecast.duration(seconds) == text


def test_few_models_are_pointed_out() -> None:
  few = CollectConfig(num_models=599, num_held_out=20, held_out_seeds=2, alpha=0.5)
  plan, note = forecast.describe(few, 100, 7)
  assert "599 on random 50 of them, and 40 more" in plan
  assert "6.0 models on subsets" in note and "--num_models=600" in note
  enough = CollectConfig(num_models=600, num_held_out=20)
  assert len(forecast.describe(enough, 100, 7)) == 1


def test_steps_before_an_announcement_say_nothing_of_it(capsys) -> None:
  """Such as those of smaller models."""
  timer = forecast.StepTimer()
  timer.announce(lambda seconds: f"a {seconds:g}")
  timer.observe(8, 0.8)
  timer.announce(lambda seconds: f"b {seconds:g}")
  timer.observe(8, 4.0)
  assert capsys.readouterr().out == ""
  timer.observe(8, 4.8)
  assert capsys.readouterr().out == "a 0.5\nb 0.5\n"


def test_two_long_steps_are_enough(capsys) -> None:
  timer = forecast.StepTimer()
  timer.announce(lambda seconds: f"{seconds:g} s a step")
  timer.observe(1, 100.0)
  timer.observe(1, 50.0)
  assert capsys.readouterr().out == "50 s a step\n"


def test_a_search_is_announced_for_its_targets_and_methods() -> None:
  asked = CompareConfig(methods="influence,random", search_targets="")
  search = SearchConfig(num_targets=30, search_models=2, verify_seeds=4)
  most, said = search.most_models, []
  opened = types.SimpleNamespace(
    experiment=types.SimpleNamespace(search=search, compare=asked),
    dataset=types.SimpleNamespace(test_labels=np.zeros(7), train_labels=np.zeros(9)),
    timer=forecast.StepTimer(),
    announce=lambda text, examples: said.append((text(2.0, 1), examples)),
  )
  searches.announce(opened, "repair", extra_methods=1)
  searches.announce(opened, "repair", targets=5)
  named = dataclasses.replace(asked, search_targets="1,4")
  opened.experiment.compare = named
  searches.announce(opened, "repair")
  cases = (7 * 3, 5 * 2, 2 * 2)
  for (text, examples), count in zip(said, cases, strict=True):
    limits = f"between {count} and {count * most:,} models for {count} pairs"
    assert limits in text and examples == 9

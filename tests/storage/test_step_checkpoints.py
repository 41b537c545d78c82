import itertools

import jax
import numpy as np
import pytest

from jaxdm.storage import checkpoint, step_checkpoints

SECONDS = 300.0


class KilledError(Exception):
  """Stands for a killed process."""


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch) -> None:
  """Writes files without waiting for the disk."""

  def save(path, arrays, *, overwrite: bool) -> None:
    (path / "d").mkdir(parents=True, exist_ok=overwrite)
    np.savez(path / "d" / "state.npz", **arrays)

  def load(path) -> dict[str, np.ndarray]:
    with np.load(path / "d" / "state.npz") as arrays:
      return dict(arrays)

  monkeypatch.setattr(checkpoint, "save", save)
  monkeypatch.setattr(checkpoint, "load", load)


class Machine:
  """Computes states step by step on a clock of its own, and may be killed."""

  def __init__(self, folder, step_seconds, killed_at: float = np.inf):
    self.now, self._step_seconds, self._killed_at = 0.0, step_seconds, killed_at
    self.checkpoints = step_checkpoints.Checkpoints(folder, SECONDS, lambda: self.now)
    self.computed: list[int] = []

  def run(self, calls: list[tuple[str, int]], settle_every: int = 10**6) -> None:
    """Runs computations of so many steps each, and stores some now and then."""
    for i, (name, steps) in enumerate(calls, start=1):
      final = self.checkpoints.run(name, jax.numpy.zeros(()), 0, steps, self._advance)
      assert float(final) == steps
      self.computed.append(i)
      if i % settle_every == 0:
        self.checkpoints.settle()

  def _advance(self, state, first: int, stop: int):
    assert float(state) == first
    self.now += (stop - first) * self._step_seconds
    if self.now > self._killed_at:
      raise KilledError
    return state + (stop - first)


# As models on all data are trained: to the middles of thirds, and to the end.
THIRDS = [(f"{i}-{part}", 600 * part // 6) for i in range(3) for part in (1, 3, 5, 6)]


@pytest.mark.parametrize(
  "step_seconds,calls",
  [
    (0.4, THIRDS),  # Only some of them take long by themselves.
    (2.0, THIRDS),  # All of them do.
    (50.0, [("a", 40), ("b", 3)]),  # Each step takes long.
    (1.0, [(str(i), 25) for i in range(60)]),  # None does, but all together.
  ],
)
def test_a_kill_loses_no_more_than_was_said(tmp_path, step_seconds, calls) -> None:
  total = step_seconds * sum(steps for _, steps in calls)
  for number, killed_at in enumerate(np.linspace(0.05, 0.99, 9) * total):
    folder = tmp_path / str(number)
    first = Machine(folder, step_seconds, killed_at)
    with pytest.raises(KilledError):
      first.run(calls)
    second = Machine(folder, step_seconds)
    second.run(calls)
    # The part in which it was killed counts up to the kill.
    lost = killed_at + second.now - total
    assert lost <= SECONDS + 1e-6, (killed_at, lost)
    second.checkpoints.settle()
    assert list(folder.glob("*")) == []


def test_what_is_quick_and_stored_is_never_written(tmp_path) -> None:
  machine = Machine(tmp_path, 0.1)
  machine.run([(str(i), 500) for i in range(40)], settle_every=2)
  assert list(tmp_path.iterdir()) == []


def test_long_ones_are_stored_before_others_are_computed(tmp_path) -> None:
  machine = Machine(tmp_path, 1.0)
  machine.run([("a", 10)])
  assert not machine.checkpoints.has_much_to_store()
  machine.run([("b", 1000)])
  assert machine.checkpoints.has_much_to_store()
  machine.checkpoints.settle()
  assert not machine.checkpoints.has_much_to_store()


def test_parts_of_full_calls_and_of_calls_of_few_models_take_as_long(tmp_path) -> None:
  observed: list[float] = []
  machine = Machine(tmp_path, 1.0)
  machine.checkpoints = step_checkpoints.Checkpoints(
    tmp_path, SECONDS, lambda: machine.now, lambda n, taken: observed.append(taken / n)
  )
  for i, load in enumerate((0.1, 1.0, 0.1)):
    times, machine._step_seconds = [machine.now], load

    def advance(state, first: int, stop: int, times=times):
      state = machine._advance(state, first, stop)
      times.append(machine.now)
      return state

    state = jax.numpy.zeros(())
    machine.checkpoints.run(str(i), state, 0, 4000, advance, load=load)
    assert max(np.diff(times)) == pytest.approx(0.2 * SECONDS)
  assert observed == pytest.approx([1.0] * len(observed))


def test_steps_that_become_slow_are_noticed(tmp_path) -> None:
  machine = Machine(tmp_path, 0.01)
  machine.run([("quick", 5000)])
  machine.checkpoints.settle()
  machine._step_seconds = 1.0
  before, kept = machine.now, []
  keep = machine.checkpoints.write_state
  machine.checkpoints.write_state = lambda name, step, state: (
    kept.append(machine.now - before) or keep(name, step, state)
  )
  machine.run([("slow", 8000)])
  # The first part was sized for quick steps; then no part takes more than its share.
  later = [b - a for a, b in itertools.pairwise(kept)]
  assert len(later) > 5 and max(later) <= SECONDS

"""Looks after a workdir's stores of trained models.

  python -m experiments.bank --workdir=runs/fashion --do=show
  python -m experiments.bank --workdir=runs/fashion --do=verify

What --do can be:

  show    what every store holds, and what made it
  verify  every byte against the digests that were written with it, and every training set
          against its seed; exits with 1 if something is wrong
  repair  the same, and forgets what is damaged, so that train_subsets trains it again
  merge   takes over what another workdir of the same experiment has (--other)
  export  masks.npy and margins.npy in the layout of the public CIFAR-10 bank (--other),
          which fit_datamodels reads with --masks and --margins
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from experiments import lab, launcher, train_subsets
from jaxdm import retrain, store

DO = flags.DEFINE_enum(
  "do", "show", ["show", "verify", "repair", "merge", "export"], "What to do; see above."
)
OTHER = flags.DEFINE_string(
  "other", None, "merge: the workdir to take models from; export: the folder to write."
)
_BLOCK_ROWS = 4096
_FLOAT16 = float(np.finfo(np.float16).max)


def show(opened: lab.Lab) -> None:
  """Prints a line a store."""
  print(f"{'store':<24}{'models':>12}{'of':>12}{'diverged':>10}{'chunks':>9}  made by")
  for folder in _stores(opened):
    found = store.summary(folder)
    wanted = {c.store.path.name: c.models for c in opened.collections()}
    of = f"{wanted[folder.name]:,}" if folder.name in wanted else ""
    made = ", ".join(f"{name} {version}" for name, version in found.made_by.items())
    counts = (
      f"{found.rows:>12,}{of:>12}{found.totals.get('diverged', 0):>10,}{found.chunks:>9,}"
    )
    print(f"{folder.name:<24}{counts}  {made}")


def problems(opened: lab.Lab) -> Iterator[tuple[epath.Path, store.Damage]]:
  """What is not as it was written, or not what its seed says."""
  broken = [(path, found) for path in _stores(opened) for found in store.damage(path)]
  yield from broken
  if broken:
    return  # What is damaged may not be readable; after a repair it is looked at.
  for collection in opened.collections():
    path = collection.store.path
    yield from ((path, found) for found in _wrong_masks(opened, collection))


def _wrong_masks(opened: lab.Lab, collection: lab.Collection) -> Iterator[store.Damage]:
  """Chunks whose training sets do not follow from seed and number."""
  for chunk, rows in collection.store.chunks().items():
    numbers = chunk * collection.store.rows_per_chunk + np.arange(rows)
    expected = np.packbits(opened.subset_masks(collection.first + numbers), axis=1)
    if (collection.store.read("masks", numbers) != expected).any():
      yield store.Damage(chunk, f"masks/c/{chunk}/0", "not the subsets of its seed")


def verify(opened: lab.Lab, *, repair: bool) -> None:
  """Prints what is wrong, and forgets it if asked to; exits with 1 if it stays wrong."""
  found = list(problems(opened))
  for folder, damage in found:
    print(f"{folder.name}/{damage.file}: {damage.why}")
  if not found:
    print("every byte is as it was written, and every subset is its seed's")
    return
  if not repair:
    sys.exit(1)
  for folder, damage in found:
    store.forget(folder, damage)
  opened.workdir.reopen(train_subsets.STAGE)
  print(
    f"{len(found)} damaged files forgotten; python -m experiments.train_subsets "
    f"--workdir={opened.workdir.path} trains again what they held"
  )


def merge(opened: lab.Lab, other: epath.Path) -> None:
  """Copies the chunks that only the other workdir has, each checked."""
  for folder in _stores(opened, other):
    mine = opened.workdir.path / "bank" / folder.name
    if not mine.exists():
      raise ValueError(f"other={other} has {folder.name}, which this experiment has not")
    print(f"{folder.name}: {store.merge(mine, folder)} chunks taken over")
  left = train_subsets.lacking(opened)
  print(f"{left} models are missing" if left else "no model is missing")


def export(opened: lab.Lab, folder: epath.Path) -> None:
  """Writes the first seed's models on random subsets as two .npy files."""
  subsets = opened.collections()[0]
  lacking = retrain.missing(subsets.store, subsets.models)
  if lacking:
    raise ValueError(
      f"workdir={opened.workdir.path} lacks models; run train_subsets to the end first"
    )
  folder.mkdir(parents=True, exist_ok=True)
  m, n, t = subsets.models, len(opened.labels), len(opened.target_labels)
  shapes = {"masks": ((m, n), bool), "margins": ((m, t), np.float16)}
  files: dict[str, Any] = {
    name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
    for name, (shape, dtype) in shapes.items()
  }
  for start in range(0, m, _BLOCK_ROWS):
    rows = slice(start, min(start + _BLOCK_ROWS, m))
    margins_mt = subsets.store.read("margins", rows)
    if np.abs(margins_mt[np.isfinite(margins_mt)]).max(initial=0) > _FLOAT16:
      raise ValueError("margins exceed what float16 can hold; nothing can be exported")
    files["margins"][rows] = margins_mt
    packed = subsets.store.read("masks", rows)
    files["masks"][rows] = np.unpackbits(packed, axis=1, count=n)
  for file in files.values():
    file.flush()
  print(f"{m:,} models, {n:,} examples, {t:,} targets in {folder}")


def _stores(opened: lab.Lab, workdir: epath.Path | None = None) -> list[epath.Path]:
  """Folders of stores."""
  root = (workdir or opened.workdir.path) / "bank"
  found = sorted(path for path in root.glob("*") if path.is_dir())
  if not found:
    raise ValueError(f"workdir={root.parent} holds no models yet")
  return found


def main(opened: lab.Lab) -> None:
  """Does what --do says."""
  if (OTHER.value is None) != (DO.value not in ("merge", "export")):
    raise ValueError(
      f"other is for --do=merge and --do=export, which need it; got --do={DO.value}"
    )
  if DO.value == "show":
    show(opened)
  elif DO.value in ("verify", "repair"):
    verify(opened, repair=DO.value == "repair")
  elif DO.value == "merge":
    merge(opened, epath.Path(OTHER.value))
  else:
    export(opened, epath.Path(OTHER.value))


if __name__ == "__main__":
  launcher.run(main)

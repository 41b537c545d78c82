"""The models of a bank as .npy files: how they are written, and read into a store."""

import contextlib
from typing import Any

import numpy as np
from etils import epath

from experiments.runtime import (
  bank_folder,
  imported_models,
  margin_files,
  progress_bar,
  stages,
)
from experiments.runtime.run import Run
from jaxdm.errors import UserError
from jaxdm.storage import atomic_io, bank, store_layout
from jaxdm.storage.store import Store
from jaxdm.training.collection import missing_in_store

_BLOCK_ROWS = 4096
_IMPORTED_ROWS = 512
_FLOAT16 = float(np.finfo(np.float16).max)


def export(run: Run, folder: epath.Path) -> None:
  """Writes the first seed's models on random subsets as two .npy files."""
  subsets = run.subsets.first_models()
  if missing_in_store(subsets.store, subsets.models):
    raise UserError(
      "workdir", f"={run.workdir.path} lacks models; run train_subsets to the end first"
    )
  try:
    atomic_io.check_writable(folder)
  except OSError as error:
    raise UserError("other", f"={folder} cannot be written: {error}") from error
  m, n, t = subsets.models, *map(len, (run.trainer.labels, run.trainer.target_labels))
  shapes: dict[str, tuple[tuple[int, ...], Any]]
  # Margins first, whose file is then named last: with them all is there.
  shapes = {"margins": ((m, t), np.float16), "masks": ((m, n), bool)}
  if "logits" in subsets.store.columns:
    shapes["logits"] = ((m, t, run.dataset.num_classes), np.float16)
  for name in shapes:
    if (folder / f"{name}.npy").exists():
      raise UserError("other", f"={folder} holds {name}.npy already; name a new folder")
  with contextlib.ExitStack() as stack:
    files: dict[str, Any] = {}
    for name, (shape, dtype) in shapes.items():
      files[name] = stack.enter_context(atomic_io.writing(folder / f"{name}.npy"))
      header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "shape": shape}
      np.lib.format.write_array_header_1_0(files[name], header | {"fortran_order": False})
    for start in range(0, m, _BLOCK_ROWS):
      rows = slice(start, min(start + _BLOCK_ROWS, m))
      for name, (_, dtype) in shapes.items():
        numbers = subsets.store.read(name, rows)
        if name == "masks":
          numbers = np.unpackbits(numbers, axis=1, count=n)
        elif np.abs(numbers[np.isfinite(numbers)]).max(initial=0) > _FLOAT16:
          raise UserError(
            None, f"float16 cannot hold {name} of this run; export is not possible"
          )
        files[name].write(numbers.astype(dtype).tobytes())
  print(f"{m:,} models, {n:,} examples, {t:,} targets in {folder}")


def take_in(files: margin_files.Files) -> None:
  """Makes a store of files, all of whose models are checked; continues a stopped one."""
  masks, margins_mt = files.masks, files.margins_mt
  (m, n), t = masks.shape, margins_mt.shape[1]
  own_dtype = margins_mt[:1].dtype
  # Stores hold no wider ones, and none of the other byte order.
  dtype = "float16" if own_dtype.itemsize == 2 else "float32"
  if own_dtype.itemsize > 4:
    for first in range(0, m, _BLOCK_ROWS):  # Before anything is written.
      _converted(margins_mt[first : first + _BLOCK_ROWS], dtype)
    print(f"margins of {own_dtype} are imported as float32, which has fewer digits")
  stores = bank_folder.stores(files.workdir.bank)
  is_other = any(path.name != imported_models.NAME for path in stores)
  has_imported = imported_models.exist(files.workdir) or imported_models.has_store(
    files.workdir
  )
  if is_other and not has_imported:
    raise UserError(
      "workdir", f"={files.workdir.path} holds other models; name a new one"
    )

  digest = files.settings["files"]["digest"]

  def open_store() -> Store:
    return bank.open_store(
      imported_models.path(files.workdir),
      num_targets=t,
      num_train=n,
      settings=imported_models.store_settings(digest),
      rows_per_chunk=_IMPORTED_ROWS,
      dtype=dtype,
    )

  def lacks() -> str:
    count = sum(map(len, missing_in_store(open_store(), m)))
    return f"{count} of {m} models are missing" if count else ""

  def work() -> dict[str, Any]:
    store = open_store()
    bar = progress_bar.make("models imported", folder=files.workdir.path)
    for chunk in missing_in_store(store, m):
      rows = slice(chunk.start, chunk.stop)
      margins = _converted(margins_mt[rows], dtype)
      # A store takes a model with an infinite margin for diverged. Here whole targets may
      # have no margins, of models that are usable for others.
      margins = np.where(np.isfinite(margins), margins, np.nan)
      bank.write_from(store, chunk.start, masks[rows], margins)
      bar(chunk.stop, m)
    num_present = np.bitwise_count(masks.bits).sum(dtype=np.int64)
    about = {"models": m, "examples": n, "targets": t, "dtype": dtype}
    return about | {"alpha": float(num_present / (m * n)), "digest": digest}

  settings = {"imported": files.settings["files"]}
  stages.run(
    files.workdir,
    imported_models.STAGE,
    settings,
    work,
    lacks=lacks,
    stored=lambda: store_layout.markers(imported_models.path(files.workdir)),
  )


def _converted(margins_mt: np.ndarray, dtype: str) -> np.ndarray:
  """Margins as a store holds them.

  Raises:
    UserError: if a finite one is too large for that.
  """
  with np.errstate(over="ignore"):
    converted = np.asarray(margins_mt, dtype)
  if not np.array_equal(np.isfinite(converted), np.isfinite(margins_mt)):
    raise UserError("margins", f"has numbers that {dtype} cannot hold")
  return converted

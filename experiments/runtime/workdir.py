"""The folder of one experiment, and its locks."""

import contextlib
import fcntl
import itertools
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import IO, Any

from experiments.runtime import bank_folder
from experiments.runtime.places import Places
from jaxdm.errors import UserError
from jaxdm.storage import atomic_io, maintenance


class WorkdirError(UserError):
  """A workdir that cannot serve this call; nothing in it was changed."""


class Workdir:
  """The folder of one experiment.

  Attributes:
    path: the folder.
    stages: the folder of the stages' records.
    bank: the folder, or the place in a bucket, of its stores.
    places: files and folders outside of it that its programs read.
  """

  def __init__(self, path: str | None, bank_dir: str | None = None):
    """Names the folder; it is not made before `lock`.

    Args:
      path: the folder.
      bank_dir: of its stores, if it is not to be inside; the workdir remembers it.

    Raises:
      WorkdirError: if it holds something else, or has its stores somewhere else.
    """
    if not path:
      raise WorkdirError("workdir", "is needed: a folder for the experiment's results")
    self.path = atomic_io.as_path(path)
    self.stages = self.path / "stages"
    try:
      with contextlib.suppress(FileNotFoundError):
        os.stat(self.path)  # `exists` hides why a path cannot be looked at.
      foreign = (
        not self.stages.exists() and self.path.exists() and any(self.path.iterdir())
      )
    except OSError as error:
      raise WorkdirError("workdir", f"={path} cannot be read: {error}") from error
    if foreign:
      raise WorkdirError(
        "workdir", f"={path} is not empty and holds no experiment; name a new folder"
      )
    self.places = Places(self.path)
    stored = self.places.stored().get("bank_dir")
    stored = stored or os.path.abspath(self.path / "bank")
    self.bank = atomic_io.as_path(
      self.places.find(bank_dir=bank_dir)["bank_dir"] or stored
    )
    if os.fspath(self.bank) != stored and bank_folder.has_store(
      atomic_io.as_path(stored)
    ):
      raise WorkdirError(
        "bank_dir", f": the stores of --workdir={path} are in {stored}, not in {bank_dir}"
      )
    if not atomic_io.is_remote(self.bank):  # Of buckets nothing is asked before a write.
      self._check_bank_is_not_foreign()

  def check_bank(self) -> None:
    """Raises WorkdirError if stores cannot be written where they are to be."""
    self.check_bank_exists()
    try:
      self._check_bank_is_not_foreign()
      atomic_io.check_writable(self.bank)
    except WorkdirError:
      raise
    except Exception as error:  # Buckets raise many kinds.
      raise self.bank_error(f"cannot be used: {error}") from error

  def _check_bank_is_not_foreign(self) -> None:
    """Raises WorkdirError if the folder of the stores holds only other things."""
    try:
      is_foreign = bank_folder.is_foreign(self.bank)
    except OSError as error:
      raise self.bank_error(f"cannot be read: {error}") from error
    if is_foreign:
      raise self.bank_error(
        "is not empty and holds no store of models; name a new folder by --bank_dir"
      )

  def check_bank_exists(self) -> None:
    """Raises WorkdirError if stores are elsewhere, and that folder is gone.

    It may be on a disk that is not mounted. A folder inside the workdir that is gone was
    removed, with its models (see `workdir_models.check_stores`).
    """
    has_stages = bool(atomic_io.find(self.stages, "*.json"))
    if self._is_bank_inside() or not has_stages or atomic_io.is_remote(self.bank):
      return
    if not atomic_io.exists(self.bank):
      raise self.bank_error(
        f"is not there, and the stores of {self.path} were; {self.how_to_find_bank()}; "
        "or, if they are lost, make it an empty folder and give the same command again"
      )

  def how_to_find_bank(self) -> str:
    """What to do where the stores are not in their folder."""
    mount = "mount its disk"
    if self._owns_bank():
      return mount
    return f"name its new place by --bank_dir=NEW, or {mount}"

  def bank_error(self, text: str) -> WorkdirError:
    """An error that names the folder of the stores, and no flag that nobody gave."""
    setting, mark = ("workdir", ": ") if self._owns_bank() else ("bank_dir", "=")
    return WorkdirError(setting, f"{mark}{self.bank} {text}")

  def _owns_bank(self) -> bool:
    """Whether the stores are in the workdir itself."""
    return os.fspath(self.bank) == os.path.abspath(self.path / "bank")

  def _is_bank_inside(self) -> bool:
    """Whether the stores are in the workdir, and not behind a link in it."""
    return self._owns_bank() and not os.path.islink(self.bank)

  @contextlib.contextmanager
  def lock(self, index: int = 0, count: int = 1) -> Iterator[None]:
    """Makes the folder, and holds it against other processes on this machine.

    Stores in another folder are held as well, where that can be written: an experiment
    removes empty stores of other settings, to which another one may be writing.

    Args:
      index: which of `count` processes this is that may use it together.
      count: how many.

    Raises:
      WorkdirError: if it cannot be written, or another process holds it.
    """
    locks = {".lock": fcntl.LOCK_EX}
    if count > 1:
      locks = {".lock": fcntl.LOCK_SH, f".lock-{index}-of-{count}": fcntl.LOCK_EX}
    with contextlib.ExitStack() as stack:
      for name, kind in locks.items():
        try:
          self.stages.mkdir(parents=True, exist_ok=True)
          file = stack.enter_context(open(self.path / name, "ab"))
        except OSError as error:
          raise WorkdirError(
            "workdir", f"={self.path} cannot be written: {error}"
          ) from error
        self._lock(file, kind, self._error_of_use())
      if not self._is_bank_inside():
        self._lock_bank(stack, locks)
      if count == 1:
        maintenance.sweep(self.path)
      yield

  def _lock_bank(self, stack: contextlib.ExitStack, locks: Mapping[str, int]) -> None:
    """Holds the folder of stores, unless it is a bucket or cannot be written.

    One that an earlier run wrote to is not made: its disk may not be mounted.
    """
    if atomic_io.is_remote(self.bank):
      return
    in_use = "is in use by another experiment; wait for it to end, or name another folder"
    with contextlib.suppress(OSError):  # `check_bank` says why, where it matters.
      if not atomic_io.find(self.stages, "*.json"):
        atomic_io.make_folder(self.bank)
      folders = [self.bank]
      owner = self.bank.parent
      if (owner / ".lock").exists() and not os.path.samefile(owner, self.path):
        folders.append(owner)  # The stores are inside of another workdir.
      for folder, (name, kind) in itertools.product(folders, locks.items()):
        file = stack.enter_context((folder / name).open("ab"))
        self._lock(file, kind, self.bank_error(in_use))

  def _error_of_use(self) -> WorkdirError:
    """What to raise where another process holds the folder."""
    return WorkdirError(
      "workdir", f"={self.path} is in use by another process; wait for it to end"
    )

  @contextlib.contextmanager
  def lock_for_reading(self) -> Iterator[None]:
    """Holds the folder like `lock`, and neither makes nor changes anything.

    One that was never written by a process has no lock, and is not held.

    Raises:
      WorkdirError: if another process holds it.
    """
    lock = self.path / ".lock"
    with contextlib.ExitStack() as stack:
      with contextlib.suppress(OSError):
        # Some network disks lock only what is open for writing.
        mode = "r+" if os.access(lock, os.W_OK) else "r"
        file = stack.enter_context(open(lock, mode))
        self._lock(file, fcntl.LOCK_EX, self._error_of_use())
      yield

  def _lock(self, file: IO[Any], kind: int, error_of_use: WorkdirError) -> None:
    """Locks an open file, where the disk has locks; raises the error where it is held."""
    try:
      fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise error_of_use from error
    except OSError as error:
      warnings.warn(
        f"the disk of {file.name} has no locks ({error}): nothing keeps a second run out "
        "of it",
        stacklevel=3,
      )

"""What killed runs have left in a workdir, which is removed when a stage is finished.

Users may link these folders to another disk, where other things may lie beside. Only the
paths that are described here are removed.
"""

from etils import epath

from experiments.runtime.workdir import Workdir
from jaxdm.storage import removal

_CHECKPOINTS = "checkpoints"
_HOST = r"host-\d+-of-\d+/"
# `Fleet` names a state by a digest; Orbax and `checkpoint.save` add the rest.
_STATE = r"[0-9a-f]{32}(?:\.[\w.-]+)?/"
# `cache.name_of` names a folder of parts by a digest.
_PART = r"(?:[0-9a-f]{16}/(?:(?:manifest|plan)\.json|[^/]+\.npz)?)"


def checkpoint_folder(workdir: Workdir, index: int, count: int) -> epath.Path:
  """The folder for the states of models that process `index` of `count` trains."""
  return workdir.path / _CHECKPOINTS / f"host-{index}-of-{count}"


def remove_checkpoints(workdir: Workdir) -> None:
  """Removes the states of all processes, also of those that did not come back."""
  is_own = removal.matching(_HOST, f"{_HOST}{_STATE}.*")
  removal.remove_own(workdir.path / _CHECKPOINTS, is_own)


def remove_parts(workdir: Workdir, name: str) -> None:
  """Removes the parts of finished computations; `name` is that of their folder."""
  removal.remove_own(workdir.path / name, removal.matching(_PART))

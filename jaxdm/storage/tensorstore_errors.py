"""Errors of TensorStore, which are ValueErrors whatever has failed, in our own terms."""

import errno
import os
import re

from etils import epath

from jaxdm.storage.checksummed_json import DamageError

# What follows is the request, about a thousand characters long.
_REQUEST = re.compile(r" \[(tensorstore_spec|source locations|os_error_code)=?.*", re.S)
_MOST_LETTERS = 200
# What is in a file's place is damage, whatever the system calls it.
_DAMAGE = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR}


def reason(error: BaseException) -> str:
  """What has failed, in a line without the request."""
  text = " ".join(_REQUEST.sub("", str(error)).split())
  return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}..."


def system_error(error: BaseException, path: str | epath.PathLike) -> OSError | None:
  """The error of the operating system behind one of TensorStore's, if there is one.

  Args:
    error: TensorStore's.
    path: what was read or written.
  """
  if not (code := re.search(r"os_error_code='(\d+)'", str(error))):
    return None
  number = int(code[1])
  return OSError(number, os.strerror(number), os.fspath(path))


def unreadable(error: BaseException, path: str | epath.PathLike) -> OSError | None:
  """The system's error if something may be undamaged and cannot be read now; else None.

  Args:
    error: of TensorStore, Orbax or the system.
    path: what was read.
  """
  os_error = error if isinstance(error, OSError) else system_error(error, path)
  return os_error if os_error and os_error.errno not in _DAMAGE | {None} else None


def of_reading(error: ValueError, path: epath.Path) -> OSError | DamageError:
  """What to raise where TensorStore could not open or read an array."""
  if os_error := unreadable(error, path):
    return os_error
  return DamageError(path, f"is damaged: {reason(error)}")

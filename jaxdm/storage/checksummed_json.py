"""JSON files that carry a digest of their own content, so that no byte changes unseen."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxdm.errors import UserError
from jaxdm.storage import atomic_io

_PART_BYTES = 2**22
_DIGEST = "seal"  # The key in files; existing files stay readable.


class StoreError(UserError):
  """A store that does not match, cannot be read or cannot be written."""


def digest(content: bytes) -> str:
  """128 bits of a file's content, in hex."""
  return hashlib.blake2b(content, digest_size=16).hexdigest()


def file_digest(path: epath.Path) -> str:
  """`digest` of a file, which is read in parts."""
  hasher = hashlib.blake2b(digest_size=16)
  with path.open("rb") as file:
    while content := file.read(_PART_BYTES):
      hasher.update(content)
  return hasher.hexdigest()


def write(path: epath.Path, value: Mapping[str, Any], *, new: bool = False) -> None:
  """Writes a JSON object together with a digest of itself.

  Args:
    path: of the file.
    value: JSON values.
    new: leave a file that is there.
  """
  content = {**value, _DIGEST: _digest_of(value)}
  if new:
    atomic_io.write_new(path, json.dumps(content, indent=1).encode())
  else:
    atomic_io.write_json(path, content)


def read(path: epath.Path) -> dict[str, Any]:
  """What `write` wrote, without the digest.

  Raises:
    StoreError: if any byte has changed, or the file cannot be read.
  """
  try:
    text = path.read_text()
    value = json.loads(text)
    if json.dumps(value, indent=1) != text or value.pop(_DIGEST) != _digest_of(value):
      raise ValueError("it has changed since it was written")
  except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
    raise StoreError(None, f"{path} is damaged: {error}") from error
  return value


def _digest_of(value: Mapping[str, Any]) -> str:
  """128 bits of a JSON object, in hex."""
  return digest(json.dumps(value).encode())


def differences(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
  """One phrase per setting in which two mappings differ."""
  keys = sorted(stored.keys() | requested.keys())
  return [
    f"{key}: stored {stored.get(key)!r}, asked {requested.get(key)!r}"
    for key in keys
    if stored.get(key) != requested.get(key)
  ]

"""What tests do to stores."""

from jaxdm.storage import store_layout
from jaxdm.storage.store import Store


def lose_chunk(store: Store, chunk: int) -> None:
  """Removes the markers of a chunk."""
  for marker in store_layout.markers(store.path, chunk):
    marker.unlink()

"""Stores in a bucket, as an emulator of Google Cloud Storage has them."""

import contextlib
import logging
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
from gcp_storage_emulator import exceptions, server
from gcp_storage_emulator.handlers import objects
from support.programs import TOY_OF_DRILL, start, store_of

from experiments import fit_datamodels, train_subsets
from experiments.ops import bank as bank_launcher
from experiments.ops import status
from jaxdm.storage import bank, maintenance, removal, store, store_layout

_DOWNLOAD = objects.download


def _download(request, response, storage, *args, **more):
  """The emulator's, with what it lacks: generations, and ranges from the end."""
  names = request.params["bucket_name"], request.params["object_id"]
  get_header = request.get_header
  asked = re.fullmatch(r"bytes=-(\d+)", (get_header("range", "") or "").strip())
  with contextlib.suppress(exceptions.NotFound):
    response["x-goog-generation"] = str(storage.get_file_obj(*names)["generation"])
    first = max(0, len(storage.get_file(*names)) - int(asked[1])) if asked else 0

  def changed(name, default=None):
    absolute = asked and name == "range"
    return f"bytes={first}-" if absolute else get_header(name, default)

  request.get_header = changed
  return _DOWNLOAD(request, response, storage, *args, **more)


@pytest.fixture(scope="module")
def bucket():
  with pytest.MonkeyPatch.context() as patch, socket.socket() as probe:
    probe.bind(("", 0))
    port = probe.getsockname()[1]
    probe.close()
    patch.setattr(objects, "download", _download)
    for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
      patch.setenv(name, f"http://localhost:{port}")
    # Nobody is asked for credentials.
    patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
    patch.setenv("NO_GCE_CHECK", "true")
    logging.getLogger("gcsfs").setLevel(logging.ERROR)  # It looks for credentials.
    emulator = server.create_server("localhost", port, True, default_bucket="bank")
    emulator.start()
    yield "gs://bank"
    emulator.stop()


def test_what_is_written_is_read_checked_and_forgotten(bucket) -> None:
  path, rng = f"{bucket}/alone", np.random.default_rng(0)
  margins = [rng.normal(size=(4, 600)).astype(np.float32) for _ in range(3)]

  def opened() -> store.Store:
    return bank.open_store(
      path, num_targets=600, num_train=20, settings={"seed": 1}, rows_per_chunk=4
    )

  for chunk, margins_mt in enumerate(margins):
    bank.write(opened(), chunk, rng.random((4, 20)) < 0.5, margins_mt)
  assert opened().chunks() == {0: 4, 1: 4, 2: 4}
  found = opened().read("margins", slice(4, 8), slice(250, 300))
  np.testing.assert_array_equal(found, margins[1][:, 250:300])
  assert list(maintenance.damage(path)) == [] and maintenance.summary(path).rows == 12
  file = opened().path / "margins/c/1/0"
  content = bytearray(file.read_bytes())
  content[7] ^= 1
  file.write_bytes(bytes(content))
  [damage] = maintenance.damage(path)
  assert (damage.chunk, damage.file) == (1, "margins/c/1/0")
  maintenance.forget(path, damage)
  assert opened().chunks() == {0: 4, 2: 4}
  names = sorted(p.name for p in (opened().path / "done").glob("*"))
  assert names == ["00000000000000-4.json", "00000000000002-4.json"]


def test_what_others_have_written_since_a_listing_is_there(bucket) -> None:
  path = f"{bucket}/listed/changes"
  opened = bank.open_store(
    path, num_targets=3, num_train=20, settings={}, rows_per_chunk=4
  )
  margins_mt = np.arange(12, dtype=np.float32).reshape(4, 3)
  bank.write(opened, 0, np.ones((4, 20), bool), margins_mt)
  # Lists all of it.
  assert removal.foreign_paths(opened.path, store_layout.own_paths(None))
  # Another process has other connections.
  command = (
    "import numpy as np; from jaxdm.storage import bank;"
    f"store = bank.open_store({path!r}, num_targets=3, num_train=20, settings={{}},"
    "rows_per_chunk=4);"
    "bank.write(store, 5, np.ones((4, 20), bool), np.ones((4, 3), np.float32))"
  )
  subprocess.run([sys.executable, "-c", command], check=True)
  assert opened.chunks() == {0: 4, 5: 4}
  found = opened.read("margins", slice(20, 24))
  np.testing.assert_array_equal(found, np.ones((4, 3)))


@pytest.mark.slow
def test_hosts_with_disks_of_their_own_meet_in_a_bucket(
  bucket,
  trained,
  tmp_path,
  capsys,
) -> None:
  asked = {"bank_dir": f"{bucket}/run"}
  for index in (1, 0):
    start(
      train_subsets.PROGRAM,
      tmp_path / str(index),
      toy=TOY_OF_DRILL,
      shard=f"{index}/2",
      **asked,
    )
  folder = tmp_path / "0"
  assert not (folder / "bank").exists()
  # From here on the workdir knows.
  start(train_subsets.PROGRAM, folder, toy=TOY_OF_DRILL)
  start(fit_datamodels.PROGRAM, folder, toy=TOY_OF_DRILL)
  start(bank_launcher.PROGRAM, folder, toy=TOY_OF_DRILL, do="verify")
  rows = slice(0, 78)
  for name in ("masks", "margins"):
    found = store_of(folder).read(name, rows)
    np.testing.assert_array_equal(found, store_of(trained).read(name, rows))
  capsys.readouterr()
  start(status.PROGRAM, folder, toy={})
  assert re.search(r"subsets +78 ", capsys.readouterr().out)
  with pytest.raises(SystemExit, match="--bank_dir: the stores of --workdir=.* in gs:"):
    start(
      train_subsets.PROGRAM,
      folder,
      toy=TOY_OF_DRILL,
      bank_dir=str(tmp_path / "elsewhere"),
    )

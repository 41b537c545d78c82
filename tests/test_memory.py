import pathlib
import types

import psutil
import pytest

from jaxdm import cgroups, devices, memory

HOST = 10_000
V2 = "30 20 0:26 {root} {mount} rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = "35 31 0:32 {root} {mount} rw,relatime shared:9 - cgroup cgroup rw,memory\n"
OTHER = "32 31 0:29 / /nowhere rw,relatime - cgroup cgroup rw,cpu\n"


@pytest.fixture(autouse=True)
def _host(monkeypatch) -> None:
  found = types.SimpleNamespace(available=HOST)
  monkeypatch.setattr(psutil, "virtual_memory", lambda: found)


def process(folder: pathlib.Path, cgroup: str, mounts: str) -> pathlib.Path:
  (folder / "cgroup").write_text(cgroup)
  (folder / "mountinfo").write_text(OTHER + mounts)
  return folder


def group(folder: pathlib.Path, **files: object) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  for name, content in files.items():
    (folder / name.replace("__", ".")).write_text(f"{content}\n")


def v2_group(folder: pathlib.Path, limit: object, used: int, cache: int) -> None:
  stat = f"anon 7\ninactive_file {cache}\nactive_file 50\n"
  group(folder, memory__max=limit, memory__current=used, memory__stat=stat)


def v1_group(folder: pathlib.Path, limit: int, used: int, cache: int) -> None:
  stat = f"inactive_file 1\ntotal_inactive_file {cache}\n"
  files = {"memory__limit_in_bytes": limit, "memory__usage_in_bytes": used}
  group(folder, memory__stat=stat, **files)


def test_the_host_decides_where_nothing_limits_the_process(tmp_path) -> None:
  assert memory.available_bytes(tmp_path) == HOST  # No Linux: no such files.
  top = tmp_path / "top"
  v2_group(top / "a", "max", 600, 100)
  mounts = V2.format(root="/", mount=top)
  assert memory.available_bytes(process(tmp_path, "0::/a\n", mounts)) == HOST


def test_the_smallest_room_up_the_hierarchy_counts_and_file_caches_are_free(
  tmp_path,
) -> None:
  top = tmp_path / "top"
  v2_group(top / "a" / "b" / "c", 5_000, 100, 0)
  v2_group(top / "a" / "b", 1_000, 600, 150)
  v2_group(top / "a", 900, 850, 600)
  top.joinpath("cgroup.procs").write_text("1\n")
  proc = process(tmp_path, "0::/a/b/c\n", V2.format(root="/", mount=top))
  assert memory.available_bytes(proc) == 1_000 - (600 - 150)
  group(top / "a", memory__high=700)
  assert memory.available_bytes(proc) == 700 - (850 - 600)
  v2_group(top / "a", 200, 850, 600)
  assert memory.available_bytes(proc) == 0


def test_a_container_sees_its_own_group_at_the_top(tmp_path) -> None:
  top = tmp_path / "a folder"
  v2_group(top, 3_000, 1_000, 0)
  mount = str(top).replace(" ", "\\040")
  v2_group(tmp_path / "elsewhere", 1, 0, 0)  # No group, whatever it looks like.
  for path in ("/", "/../elsewhere"):
    proc = process(tmp_path, f"0::{path}\n", V2.format(root="/", mount=mount))
    assert memory.available_bytes(proc) == 2_000
  v1_group(top, 3_000, 1_500, 500)
  cgroup = "5:cpu:/docker/x\n4:hugetlb,memory:/docker/x\n"
  proc = process(tmp_path, cgroup, V1.format(root="/docker/x", mount=mount))
  assert memory.available_bytes(proc) == 2_000


def test_version_1_has_other_names(tmp_path) -> None:
  top = tmp_path / "memory"
  v1_group(top / "slurm" / "job", 2**63 - 4096, 10, 0)
  v1_group(top / "slurm", 4_000, 3_000, 2_500)
  v1_group(top, 2**63 - 4096, 10**9, 0)
  cgroup = "9:name=systemd:/\n4:memory:/slurm/job\n0::/\n"
  proc = process(tmp_path, cgroup, V1.format(root="/", mount=top))
  assert memory.available_bytes(proc) == 3_500


def test_files_that_cannot_be_read_limit_nothing(tmp_path) -> None:
  top = tmp_path / "top"
  group(top / "a", memory__max="some", memory__current=5)
  proc = process(tmp_path, "0::/a/gone\n", V2.format(root="/", mount=top))
  assert memory.available_bytes(proc) == HOST


@pytest.mark.parametrize(
  "limits,cores",
  [
    ({"cpu__max": "max 100000"}, 8),
    ({"cpu__max": "200000 100000"}, 2),
    ({"cpu__max": "150000 100000"}, 2),
    ({"cpu__max": "1000 100000"}, 1),
    ({"cpu__max": "6400000 100000"}, 8),
    ({"cpu__max": "nothing"}, 8),
    ({"cpu__cfs_quota_us": -1, "cpu__cfs_period_us": 100_000}, 8),
    ({"cpu__cfs_quota_us": 300_000, "cpu__cfs_period_us": 100_000}, 3),
  ],
)
def test_a_quota_of_cores_is_no_more_than_the_cores(
  tmp_path, monkeypatch, limits, cores
) -> None:
  monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
  top = tmp_path / "top"
  group(top / "job", **limits)
  is_v2 = "cpu__max" in limits
  mount = V2 if is_v2 else V1.replace("rw,memory", "rw,cpu,cpuacct")
  line = "0::/job/step\n" if is_v2 else "4:cpu,cpuacct:/job/step\n"
  proc = process(tmp_path, line, mount.format(root="/", mount=top))
  assert cgroups.cpu_count(proc) == cores
  assert cgroups.cpu_count(tmp_path / "no-linux") == 8


def test_of_several_devices_the_fullest_one_counts(monkeypatch) -> None:
  def of(**stats: int) -> types.SimpleNamespace:
    return types.SimpleNamespace(memory_stats=lambda: stats)

  found = [
    of(bytes_limit=100, bytes_in_use=used, peak_bytes_in_use=peak)
    for used, peak in ((10, 80), (70, 75), (40, 60))
  ]
  monkeypatch.setattr(devices.jax, "local_devices", lambda: found)
  assert devices.free_bytes() == 30 and devices.peak_bytes() == 80
  monkeypatch.setattr(devices.jax, "local_devices", lambda: [of()])
  monkeypatch.setattr(memory, "available_bytes", lambda: 7)
  assert devices.free_bytes() == 7
  resident = psutil.Process().memory_info().rss
  assert resident / 2 < devices.peak_bytes() < 100 * resident

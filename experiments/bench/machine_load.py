"""Whether other work on the machine makes what is timed here too slow."""

import os


def note() -> str:
  """A line if more processes want to run than there are cores; else empty."""
  cores, load = os.cpu_count() or 1, os.getloadavg()[0]
  if load <= cores:
    return ""
  return (
    f"note: this machine is busy (load average {load:.1f}, {cores} cores), so that times "
    "measured now are too long"
  )

"""Launchers: the command line of jaxdm. Only here are flags read."""

import sys

if sys.argv[:1] == ["-m"]:  # Python imports this package to run one of its programs.
  from experiments.runtime import preemption

  preemption.listen_early()

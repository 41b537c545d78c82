"""Flags whose values are paths."""

import os

from absl import flags

# Flags are those of the module that calls `define_path`, also for `--help`.
flags.disclaim_key_flags()


class _PathParser(flags.ArgumentParser):
  """Takes a path; `~` is the user's home, which shells leave alone in --flag=~/path."""

  syntactic_help = "a path"

  def parse(self, argument: str) -> str:
    return os.path.expanduser(argument)

  def flag_type(self) -> str:
    return "path"


def define_path(name: str, default: str | None, text: str) -> flags.FlagHolder[str]:
  """A flag whose value is a path; its arguments are those of `flags.DEFINE_string`."""
  serializer: flags.ArgumentSerializer[str] = flags.ArgumentSerializer()
  holder: flags.FlagHolder[str] = flags.DEFINE(
    _PathParser(), name, default, text, serializer=serializer
  )
  return holder

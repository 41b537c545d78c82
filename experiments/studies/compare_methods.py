"""Which methods need fewer examples than others, over the searches of several workdirs.

  python -m experiments.studies.compare_methods \\
      --tables=runs/seed0/brittleness.csv,runs/seed1/brittleness.csv \\
      --pairs=influence:published,datamodel:influence

It reads the tables that `brittleness`, `label_flip` or `repair` wrote, and counts for
each pair of methods the targets on which one needs fewer examples than the other. A
target of another table is another target. p is that of a sign test, with Holm's
correction over the pairs. The report has the same comparisons of one workdir, of each
method with each; fewer pairs, which are chosen before the results are seen, are corrected
less.
"""

from absl import flags

from experiments.runtime import program
from jaxdm.brittleness.comparison import compare_methods
from jaxdm.brittleness.verdicts import Verdict
from jaxdm.errors import UserError
from jaxdm.report import tables
from jaxdm.storage import atomic_io

TABLES = flags.DEFINE_list(
  "tables", [], "Tables of searches, such as runs/fashion/brittleness.csv."
)
PAIRS = flags.DEFINE_list(
  "pairs", [], "Pairs of methods to compare, FIRST:SECOND. Default: each with each."
)


def pooled(paths: list[str]) -> list[Verdict]:
  """The verdicts of several tables, with another number for each target of each."""
  found: list[Verdict] = []
  for path in paths:
    verdicts = tables.read_verdicts(atomic_io.as_path(path))
    first = 1 + max((verdict.target for verdict in found), default=-1)
    found += [one._replace(target=first + one.target) for one in verdicts]
  return found


def _pairs(methods: set[str]) -> list[tuple[str, str]] | None:
  """The pairs that --pairs names; None if there are none."""
  pairs = [tuple(text.split(":")) for text in PAIRS.value]
  for pair in pairs:
    if len(pair) != 2 or pair[0] == pair[1] or not methods.issuperset(pair):
      names = ", ".join(sorted(methods))
      raise UserError(
        "pairs", f"must be FIRST:SECOND, two of {names}, got {':'.join(pair)!r}"
      )
  return [(first, second) for first, second in pairs] or None


@program.one_line_errors()
def main(argv: list[str]) -> None:
  """Prints the comparisons, the smallest p first."""
  if argv[1:]:
    raise UserError(None, f"arguments must be flags, got {argv[1]!r}; see --help")
  if not TABLES.value:
    raise UserError("tables", "is needed: FILE.csv, or several with commas between them")
  verdicts = pooled(TABLES.value)
  found = compare_methods(verdicts, _pairs({verdict.method for verdict in verdicts}))
  columns = "fewer examples", "than", "on targets", "more on", "p"
  print("{:<16}{:<16}{:>12}{:>10}{:>10}".format(*columns))
  for one in found:
    print(f"{one.first:<16}{one.second:<16}{one.wins:>12}{one.losses:>10}{one.p:>10.2g}")


if __name__ == "__main__":
  program.run(main)

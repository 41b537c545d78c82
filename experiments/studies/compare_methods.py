"""Which methods need fewer examples than others, over the searches of several workdirs.

  python -m experiments.studies.compare_methods \\
      --tables=runs/seed0/brittleness.csv,runs/seed1/brittleness.csv \\
      --pairs=influence:published,datamodel:influence

It reads the tables that `brittleness`, `label_flip` or `repair` wrote, and counts for
each pair of methods the targets on which one needs fewer examples than the other. An
image that is a target in several tables, such as those of several seeds, counts once:
for the method that needs fewer examples in more of them. p is that of a sign test, with
Holm's correction over the pairs. Methods in tables of repairs are named CHANGE/METHOD,
such as removal/influence. The report has the same comparisons of one workdir, of each
method with each; fewer pairs, which are chosen before the results are seen, are corrected
less.
"""

from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

from experiments.runtime import help as help_page
from experiments.runtime import program, stages
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


class Pool(NamedTuple):
  """The verdicts of several tables.

  Attributes:
    verdicts: each target of each table has a number of its own.
    image_of: which image of the dataset a target is, by its number.
  """

  verdicts: list[Verdict]
  image_of: dict[int, str]


def pool(paths: Sequence[str]) -> Pool:
  """Reads tables; methods of repairs are named CHANGE/METHOD.

  Raises:
    UserError: on a table that is named twice, has no rows, has two for one search, or is
      not as its search has written it.
  """
  verdicts: list[Verdict] = []
  image_of: dict[int, str] = {}
  files = [atomic_io.as_path(path) for path in paths]
  for place, path in enumerate(files):
    if path.resolve() in [other.resolve() for other in files[:place]]:
      raise UserError("tables", f": {path} is named twice")
    first = 1 + max(image_of, default=-1)
    stages.check_table(path)
    rows, of_table = tables.read_rows(path, ["target_source"]), []
    if not rows:
      raise UserError("tables", f": {path} has no rows, and so no search")
    for row, one in zip(rows, tables.read_verdicts(path), strict=True):
      method = f"{row['change']}/{one.method}" if "change" in row else one.method
      of_table.append(one._replace(target=first + one.target, method=method))
      image_of[first + one.target] = row["target_source"]
    if len({(one.target, one.method) for one in of_table}) < len(of_table):
      raise UserError("tables", f": {path} has several rows of one target and method")
    verdicts += of_table
  return Pool(verdicts, image_of)


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
  program.check_no_arguments(argv)
  if not TABLES.value:
    raise UserError("tables", "is needed: FILE.csv, or several with commas between them")
  verdicts, image_of = pool(TABLES.value)
  pairs = _pairs({verdict.method for verdict in verdicts})
  columns = "fewer examples", "than", "on images", "more on", "p"
  print("{:<24}{:<24}{:>12}{:>10}{:>10}".format(*columns))
  for c in compare_methods(verdicts, pairs, image_of.__getitem__):
    print(f"{c.first:<24}{c.second:<24}{c.wins:>12}{c.losses:>10}{c.p:>10.2g}")


if __name__ == "__main__":
  help_page.print_and_exit()
  program.run(main)

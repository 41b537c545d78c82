import re
import subprocess
import sys

import numpy as np
from etils import epath

from experiments import report
from jaxdm import brittleness, datamodels, verdicts
from jaxdm.report import figures, page, tables


def verdict(target: int, method: str, k: int, tried: int = 9) -> verdicts.Verdict:
  return verdicts.Verdict(
    target=target,
    method=method,
    k=k,
    censored=k < 0,
    k_tried=tried if k < 0 else k,
    mean_margin=-0.25,
    margin_low=-0.5,
    margin_high=0.0,
    accuracy=0.25,
    models=5,
    largest=tried,
    largest_margin=-1.5,
    models_used=16,
    finished=True,
  )


VERDICTS = [
  verdict(1, "datamodel", 3),
  verdict(2, "datamodel", -1),
  verdict(1, "random", -1),
]


def test_tables_round_trip_and_list_the_changed_examples(tmp_path) -> None:
  path = epath.Path(tmp_path / "b.csv")
  cases = [
    brittleness.Case(v.target, v.method, np.arange(10, 30), np.array([9]))
    for v in VERDICTS
  ]
  base = np.array([[0, 1.0, -1.0], [0, 2.0, 3.0]])
  tables.write_verdicts(path, cases, VERDICTS, base, np.array([50, 60, 90]))
  found, rankings = tables.read_verdicts(path)
  assert found == VERDICTS
  for ranking in rankings:
    np.testing.assert_array_equal(ranking, np.arange(10, 19))
  header, first = path.read_text().splitlines()[:2]
  row = dict(zip(header.split(","), first.split(","), strict=True))
  assert float(row["base_accuracy"]) == 1.0 and float(row["base_mean_margin"]) == 1.5
  assert float(row["share_of_class"]) == 3 / 60


def test_the_summary_keeps_censored_targets_in() -> None:
  summary = tables.summarise(VERDICTS, np.array([0, 30, 30]))
  assert summary["datamodel"]["share_flipped"] == 0.5
  within = summary["datamodel"]["share_flipped_within"]
  assert within == {"1%": 0, "2%": 0, "5%": 0, "10%": 0.5, "20%": 0.5}
  assert summary["datamodel"]["median_k"] == [3.0, 3.0, None]
  assert summary["random"]["share_flipped"] == 0.0
  # Right in a quarter of the models; of random's that is not proved.
  assert summary["datamodel"]["share_mostly_wrong"] == 0.5
  assert summary["random"]["share_mostly_wrong"] == 0.0
  mostly_right = [v._replace(accuracy=0.51) for v in VERDICTS]
  other = tables.summarise(mostly_right, np.array([0, 30, 30]))
  assert other["datamodel"]["share_mostly_wrong"] == 0.0


def test_columns_say_how_many_examples_a_part_of_a_class_is() -> None:
  same = tables.summarise(VERDICTS, np.array([0, 30, 30]))
  assert tables.parts(same)[2:4] == ["<= 5% (1)", "<= 10% (3)"]
  several = tables.summarise(VERDICTS, np.array([0, 500, 30]))
  assert tables.parts(several)[3:] == ["<= 10% (3-50)", "<= 20% (6-100)"]
  header, first = tables.text(several).splitlines()[:2]
  assert "<= 10% (3-50)" in header and len(header) == len(first)


def test_curves_are_the_shares_of_the_verdicts() -> None:
  fig = figures.cumulative_share(
    tables.by_method(VERDICTS), {"datamodel": [verdict(1, "datamodel", 2)]}, class_size=60
  )
  lines = {line.get_label(): line for axes in fig.axes for line in axes.get_lines()}
  solid = lines["datamodel, removed"]
  assert solid.get_linestyle() == "-"
  shares = dict(zip(solid.get_xdata(), solid.get_ydata(), strict=True))
  assert (shares[2], shares[3], shares[9]) == (0.0, 0.5, 0.5)
  assert lines["datamodel, relabelled"].get_linestyle() == "--"
  assert lines["random, removed"].get_ydata()[-1] == 0


def test_curves_end_at_half_of_a_class() -> None:
  groups = {"random": [verdict(1, "random", 40), verdict(2, "random", 8)]}
  fig = figures.cumulative_share(groups, {}, class_size=60)
  assert fig.axes[0].get_xlim()[1] == 31


def test_calibration_shows_what_datamodels_predict_after_each_removal() -> None:
  rng = np.random.default_rng(0)
  numbers = rng.normal(size=5), *np.zeros((4, 5))
  models = datamodels.Datamodels(rng.normal(size=(5, 30)), *numbers)
  rankings = [rng.permutation(30)[:9] for _ in VERDICTS]
  fig = report._calibration(rng.normal(size=(3, 5)), models, VERDICTS, rankings)
  masks = np.ones((3, 30), bool)
  for mask, ranking in zip(masks, rankings, strict=True):
    mask[ranking] = False
  predicted = models.predict(masks)
  drawn = np.concatenate([dots.get_offsets() for dots in fig.axes[1].collections])
  targets = [v.target for v in VERDICTS]
  np.testing.assert_allclose(drawn[:, 0], predicted[range(3), targets], rtol=1e-4)
  np.testing.assert_array_equal(drawn[:, 1], [v.largest_margin for v in VERDICTS])


def test_pictures_draw_grey_and_colour() -> None:
  for channels in (1, 3):
    images = np.zeros((12, 5, 5, channels), np.uint8)
    fig = figures.story(images[0], images, title="t", removed_titles=["x"] * 12)
    assert len(fig.axes) == 13
    assert page.png(fig).startswith(b"\x89PNG")


_QUIET = """
import sys
import matplotlib
matplotlib.use("svg")
matplotlib.rcParams["savefig.facecolor"] = "red"
before = dict(matplotlib.rcParams)
import numpy as np
from jaxdm.report import figures, page, tables
from experiments import efficiency, explain, removal_curves, report
fig = figures.predicted_against_true(np.eye(3), np.eye(3), np.array([0.1, 0.2, 0.3]))
content = page.png(fig)
assert content.startswith(b"\\x89PNG"), content[:9]
# Of the size that was asked for, in pixels.
assert int.from_bytes(content[16:20]) == 7 * 120
assert dict(matplotlib.rcParams) == before
assert matplotlib.get_backend() == "svg", matplotlib.get_backend()
assert "matplotlib.pyplot" not in sys.modules
"""


def test_the_report_leaves_the_settings_of_matplotlib_alone() -> None:
  subprocess.run([sys.executable, "-c", _QUIET], check=True)


def test_the_page_needs_no_other_file_and_escapes_text() -> None:
  fig = figures.predicted_against_true(np.eye(3), np.eye(3), np.array([0.1, 0.2, 0.3]))
  body = page.image(page.png(fig), "alt") + page.table(("a<b",), [("<script>",)])
  text = page.page("title", [("part", body)])
  assert "<script>" not in text and "a&lt;b" in text
  assert re.findall(r'(?:src|href)="(?!data:)', text) == []

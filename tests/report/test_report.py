import html
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from etils import epath
from matplotlib import figure as figure_lib
from support import pages
from support.tables import dataset, read_twice

from experiments.report_page import pictures, sections, words
from jaxdm.audits import audit as audits
from jaxdm.audits import estimates
from jaxdm.audits.stand_ins import Pair
from jaxdm.brittleness import verdicts
from jaxdm.brittleness.summary import by_method, summarise
from jaxdm.datamodels.model import Datamodels
from jaxdm.errors import UserError
from jaxdm.report import (
  audit_pictures,
  figures,
  image_figures,
  page,
  summary_text,
  tables,
)


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
    largest=max(k, tried),
    largest_margin=-1.5,
    models_used=16,
    finished=True,
  )


VERDICTS = [
  verdict(1, "datamodel", 3),
  verdict(2, "datamodel", -1),
  verdict(1, "random", -1),
]


# Names of files as people have them, and worse.
NAMES = [
  "a b.png",
  "a,b.png",
  'say "a".png',
  "two\nlines.png",
  "two\rlines.png",
  "both\r\nends.png",
  "'quoted'.png",
  "\u00e4\u2265\u732b.png",
  " .png ",
  "a;b\t.png",
  "=1+1.png",
  "\\xff.png",
]


def with_examples(ranking: np.ndarray) -> list[verdicts.Verdict]:
  """The verdicts, about the first examples of a ranking."""
  return [v._replace(examples=tuple(ranking[: v.largest].tolist())) for v in VERDICTS]


def test_every_index_leads_back_to_its_file(tmp_path) -> None:
  n = len(NAMES)
  mine = dataset(
    np.arange(n) % 2,
    np.arange(n) % 2,
    class_names=('t-shirt, "red"', "two\r\nlines"),
    train_sources=tuple(f"train/{name}" for name in NAMES),
    test_sources=tuple(f"test/{name}" for name in NAMES[::-1]),
  )
  examples, targets, found = (epath.Path(tmp_path / f"{i}.csv") for i in range(3))
  tables.write_examples(examples, mine)
  rows = read_twice(examples)
  assert [row["source"] for row in rows[:n]] == [f"train/{name}" for name in NAMES]
  assert [row["source"] for row in rows[n:]] == [f"test/{name}" for name in NAMES[::-1]]
  assert [row["split"] for row in rows] == ["train"] * n + ["test"] * n
  assert [row["index"] for row in rows] == 2 * [str(i) for i in range(n)]
  assert {(row["label"], row["class"]) for row in rows} == {
    ("0", 't-shirt, "red"'),
    ("1", "two\r\nlines"),
  }
  tables.write_targets(targets, np.ones((2, n)), mine)
  rows = read_twice(targets)
  assert [row["source"] for row in rows] == [f"test/{name}" for name in NAMES[::-1]]
  ranking = np.random.default_rng(0).permutation(n)
  verdicts = with_examples(ranking)
  tables.write_verdicts(found, verdicts, np.ones((2, n)), mine)
  for row, v in zip(read_twice(found), VERDICTS, strict=True):
    assert row["target_source"] == f"test/{NAMES[::-1][v.target]}"
    changed = [f"train/{NAMES[i]}" for i in ranking[: v.k_tried]]
    assert json.loads(row["changed_sources"]) == changed
    first = ranking[: v.k_tried]
    assert json.loads(row["changed"]) == first.tolist()
    assert json.loads(row["changed_classes"]) == [mine.class_names[i % 2] for i in first]
    assert row["target_class"] == mine.class_names[v.target % 2]
    assert [int(i) for i in row["examples"].split()] == ranking[: v.largest].tolist()
  assert tables.read_verdicts(found) == verdicts


@pytest.mark.parametrize("damage", ["gone", "edited", "cut", "binary", "folder"])
def test_tables_that_cannot_be_read_are_named(tmp_path, damage) -> None:
  path = epath.Path(tmp_path / "found.csv")
  labels, verdicts = np.repeat([0, 1, 2], 20), with_examples(np.arange(20))
  tables.write_verdicts(path, verdicts, np.ones((2, 3)), dataset(labels, labels))
  text = path.read_text()
  path.unlink()
  if damage == "edited":
    path.write_text(text.replace("datamodel,3", "datamodel,three"))
  elif damage == "cut":
    path.write_text(text[: text.index("datamodel") + 9])
  elif damage == "binary":
    path.write_bytes(b"\xff\x00" + text.encode())
  elif damage == "folder":
    path.mkdir()
  with pytest.raises(
    UserError, match="found.csv (is missing|is damaged|is not as it was)"
  ):
    tables.read_verdicts(path)


def test_the_page_says_which_files_its_pictures_show() -> None:
  found = summary()
  found["captions"] = {"target_1.png": "Target: <a>.png", "explain_2.png": "Target: b"}
  wrong = {"target": "4", "class": "x", "source": "test/x/4.png"}
  wrong |= {"base_accuracy": "0.25", "base_mean_margin": "-1.0"}
  found["wrong_targets"] = [wrong]
  names = ("brittleness.png", "datamodels.png", "calibration.png", "target_1.png")
  drawn = dict.fromkeys((*names, "explain_2.png"), b"")
  page_text = page.page("title", of_experiment(found, drawn))
  for said in ("Target: &lt;a&gt;.png", "Target: b", "test/x/4.png"):
    assert page_text.count(said) == 1


def test_names_are_drawn_as_text_and_not_as_formulas() -> None:
  images, name = np.zeros((2, 5, 5, 1), np.uint8), "5 $ \\wrong{ $"
  fig = image_figures.story(images[0], images, title=name, removed_titles=[name] * 2)
  assert page.png(fig).startswith(b"\x89PNG")
  numbers = np.full((1, 3), 0.5)
  fig = image_figures.explanation(
    images[0],
    images,
    title=name,
    image_titles=[name] * 2,
    names=["nothing"],
    accuracies=numbers,
    margins=numbers,
  )
  assert page.png(fig).startswith(b"\x89PNG")


def test_tables_round_trip_and_list_the_changed_examples(tmp_path) -> None:
  path = epath.Path(tmp_path / "b.csv")
  verdicts = with_examples(np.arange(10, 30))
  base = np.array([[0, 1.0, -1.0], [0, 2.0, 3.0]])
  labels = np.repeat([0, 1, 2], [50, 60, 90])
  tables.write_verdicts(path, verdicts, base, dataset(labels, np.arange(3)))
  found = tables.read_verdicts(path)
  assert found == verdicts
  assert {v.examples for v in found} == {tuple(range(10, 19))}
  row = read_twice(path)[0]
  assert float(row["base_accuracy"]) == 1.0 and float(row["base_mean_margin"]) == 1.5
  assert float(row["share_of_class"]) == 3 / 60


def test_the_summary_keeps_censored_targets_in() -> None:
  summary = summarise(VERDICTS, np.array([0, 30, 30]))
  assert summary["datamodel"]["share_flipped"] == 0.5
  within = summary["datamodel"]["share_flipped_within"]
  assert within == {"1%": 0, "2%": 0, "5%": 0, "10%": 0.5, "20%": 0.5}
  assert summary["datamodel"]["median_k"] == [3.0, 1.0, None]
  assert summary["random"]["share_flipped"] == 0.0
  # Right in a quarter of the models; of random's that is not proved.
  assert summary["datamodel"]["share_mostly_wrong"] == 0.5
  assert summary["random"]["share_mostly_wrong"] == 0.0
  mostly_right = [v._replace(accuracy=0.51) for v in VERDICTS]
  other = summarise(mostly_right, np.array([0, 30, 30]))
  assert other["datamodel"]["share_mostly_wrong"] == 0.0


def test_columns_say_how_many_examples_a_part_of_a_class_is() -> None:
  same = summarise(VERDICTS, np.array([0, 30, 30]))
  assert summary_text.parts(same) == ["<= 5% (1)", "<= 10% (3)", "<= 20% (6)"]
  small = {name: row | {"largest_k_tried": 3} for name, row in same.items()}
  assert summary_text.parts(small) == ["<= 5% (1)", "<= 10% (3)"]
  assert summary_text.shares(same, "datamodel") == [0, 0.5, 0.5]
  searched = [v._replace(largest=125) for v in VERDICTS]
  several = summarise(searched, np.array([0, 500, 30]))
  assert summary_text.parts(several)[3:] == ["<= 10% (3-50)", "<= 20% (6-100)"]
  header, first = summary_text.text(several).splitlines()[:2]
  assert "<= 10% (3-50)" in header and len(header) == len(first)


def test_curves_are_the_shares_of_the_verdicts() -> None:
  fig = figures.cumulative_share(
    by_method(VERDICTS), {"datamodel": [verdict(1, "datamodel", 2)]}, class_size=60
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
  models = Datamodels(rng.normal(size=(5, 30)), *numbers)
  rankings = [rng.permutation(30)[:9] for _ in VERDICTS]
  removed = [
    v._replace(examples=tuple(ranking.tolist()))
    for v, ranking in zip(VERDICTS, rankings, strict=True)
  ]
  fig = pictures.calibration(rng.normal(size=(3, 5)), models, removed)
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
    fig = image_figures.story(images[0], images, title="t", removed_titles=["x"] * 12)
    assert len(fig.axes) == 13
    assert page.png(fig).startswith(b"\x89PNG")


_QUIET = """
import sys
import matplotlib
matplotlib.use("svg")
matplotlib.rcParams["savefig.facecolor"] = "red"
before = dict(matplotlib.rcParams)
import numpy as np
from jaxdm.report import csv_columns, figures, image_figures, page
from experiments.report_page import pictures
from jaxdm.report import tables
from experiments.report_page import sections
from experiments.studies import efficiency, explain, removal_curves
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
  picture, table = page.Picture(page.png(fig), "alt"), page.Table(("a<b",), [("<b>",)])
  part = page.Section("part", "<i>", ["<u>"], [picture], [table])
  text = page.page("title", [part])
  assert not re.findall("<[biu]>", text) and "a&lt;b" in text
  assert re.findall(r'(?:src|href)="(?!data:|#)', text) == []


def summary(**changes) -> dict:
  """What the report launcher writes, with some settings changed, by 'group.name'."""
  search = summarise(VERDICTS, np.array([0, 30, 30]))
  lds = {"estimate": 0.5, "low": 0.4, "high": 0.6}
  removals = {method: {**found, "lds": lds} for method, found in search.items()}
  found: dict = {
    "train_subsets": {
      "num_targets": 60,
      "base_accuracy": 0.9,
      "subset_accuracy": 0.8,
    },
    "fit_datamodels": {
      "lds": lds,
      "pooled_correlation": lds,
      "lds_ceiling": lds,
      "held_out_models": 400,
      "mean_nonzero_weights": 7.0,
      "bias_on_full_data": 0.1,
      "models_fitted_to": 1199,
      "prior": "influence+size",
    },
    "brittleness": {"methods": removals, "targets_wrong_on_all_data": 20},
    "label_flip": {"methods": search, "targets_wrong_on_all_data": 20},
    "settings": {
      "collect": {"held_out_seeds": 2, "num_held_out": 200, "alpha": 0.5},
      "search": {"verify_seeds": 16, "confidence": 0.95},
      "compare": {"search_targets": ""},
      "flip": {"flip_to": "runner-up"},
    },
    "wrong_targets": [],
    "mixtures": [],
    "provenance": {
      "train_subsets": {
        "made_by": [{"jax": "0.9.1", "code": "aa"}, {"jax": "0.9.2", "code": "bb"}],
        "devices": ["8 x H100"],
        "started": "2001-02-03T04:05:06Z",
        "finished": "2001-02-04T04:05:06Z",
        "seconds": 12345.6,
        "starts": 3,
        "processes": 4,
      }
    },
  }
  for name, value in changes.items():
    group, _, field = name.partition("__")
    found["settings"][group][field] = value
  return found


def of_experiment(found: dict, drawn: dict[str, bytes]) -> list[page.Section]:
  """The sections, without the browser of targets."""
  made = sections.of_experiment(found, drawn)
  return [section for section in made if section.name != page.TARGETS]


def text_of(found: dict) -> str:
  names = ("brittleness.png", "datamodels.png", "calibration.png")
  html_text = page.page("title", of_experiment(found, dict.fromkeys(names, b"")))
  body = re.sub(r"<(style|nav).*?</\1>", "", html_text, flags=re.S)
  return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


@pytest.mark.parametrize(
  "changes,said,not_said",
  [
    ({}, "under the label of the target's runner-up class", "which takes most"),
    ({"flip__flip_to": "best"}, "that label, for each of them", "runner-up"),
    ({"flip__flip_to": "truck"}, "images kept under the label truck", "runner-up"),
    ({}, "a random sample of 2 of the 40 targets that models", "chosen targets"),
    ({"compare__search_targets": "1,2"}, "2 chosen targets that models", "sample of"),
    ({}, "at 95 % confidence", "99.9"),
    ({"search__confidence": 0.999}, "at 99.9 % confidence", "at 100"),
    ({"search__verify_seeds": 5}, "up to 5 models", "up to 16"),
    ({}, "(200 subsets, each trained on 2 times)", "(200 subsets)"),
    ({"collect__held_out_seeds": 1}, "(200 subsets)", "each trained on"),
    ({"collect__alpha": 0.125}, "subsets of 12.5 % of", "50 %"),
  ],
)
def test_the_words_follow_the_settings(changes, said, not_said) -> None:
  text = text_of(summary(**changes))
  assert said in text
  assert not_said not in text


def test_models_without_logits_have_no_runner_up_class() -> None:
  found = summary()
  found["settings"]["retrain"] = {"retrain": "mine:logistic"}
  text = text_of(found)
  assert "label of the class whose images lower the target's margin most" in text
  assert "runner-up" not in text.partition("Settings")[0]


def test_the_words_follow_the_results() -> None:
  found = summary()
  found["brittleness"]["targets_wrong_on_all_data"] = 58
  assert "all 2 targets that models on all data get right" in text_of(found)
  assert "The noise ceiling bounds" in text_of(found)
  found["fit_datamodels"]["lds_ceiling"] = None
  assert "The noise ceiling bounds" not in text_of(found)
  assert "fewest removals flip, chosen by datamodel None is flipped." in text_of(found)
  methods = found["brittleness"]["methods"]
  del methods["datamodel"]
  text = text_of(found)
  assert "beside the removals by random:" in text and "chosen by random" in text
  assert "flipped by removing at most" in text and "flipped by relabelling" in text
  # Label flips have no LDS: neither a column nor a word of it.
  assert text.count("LDS of the method's scores") == 1
  flips = text[text.index("Label flips") : text.index("Targets that the fewest")]
  assert "LDS" not in flips


def test_the_page_shows_repairs_where_they_were_searched() -> None:
  found = summary()
  heading = "How few training images make wrong predictions right"
  assert heading not in text_of(found)
  repairs = [
    verdict(1, "influence", 4)._replace(is_repair=True, accuracy=0.75),
    verdict(2, "influence", -1)._replace(is_repair=True, accuracy=0.75),
  ]
  of_method = summarise(repairs, np.array([0, 30, 30]))
  assert of_method["influence"]["share_mostly_right"] == 0.5
  found["repair"] = {"methods": {"removal": of_method}, "caption": "About repairs."}
  names = ("brittleness.png", "datamodels.png", "calibration.png", "repair.png")
  drawn = dict.fromkeys((*names, "repair_1.png"), b"")
  page_text = page.page("title", of_experiment(found, drawn))
  body = page_text.partition("</nav>")[2]
  text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())
  part = text[text.index(heading) : text.index("Targets that models on all data get")]
  assert "About repairs." in part and "repaired by removing at most" in part
  # Within 5, 10, 20 % of 30, in all, by accuracy.
  cells = re.search(r"influence +([\d. ]+?) +4 \[", part)
  assert cells and cells[1].split() == ["0.00", "0.00", "0.50", "0.50", "0.50"]
  assert page_text.count('images: repair_1.png"') == 1


def test_claims_are_listed_with_the_smallest_first() -> None:
  labels = np.arange(12) % 2
  data = dataset(labels, labels)
  claims = [
    verdict(5, "mine", 5)._replace(examples=tuple(range(9))),
    verdict(3, "mine", 2)._replace(examples=(8, 7, 6)),
    verdict(1, "mine", -1),
    verdict(1, "other", 1),
  ]
  chosen = words.smallest_changes(claims)
  assert [v.target for v in chosen] == [3, 5] and words.smallest_changes([]) == []
  lines = [words.change_line(data, v) for v in chosen]
  names, trained, tested = data.class_names, data.train_sources, data.test_sources
  assert lines[0] == (
    f"target 3 ({names[1]}, {tested[3]}): 2 changed, by mine: "
    f"8 ({names[0]}, {trained[8]}), 7 ({names[1]}, {trained[7]})"
  )
  assert lines[1].endswith(f"2 ({names[0]}, {trained[2]}) and 2 more")


def test_the_page_shows_what_made_the_results_and_not_itself() -> None:
  found = summary()
  text = text_of(found)
  row = text[text.index("Runs") :]
  for said in (
    "2001-02-03T04:05:06Z",
    "12,345.6",
    "8 x H100",
    "jax 0.9.1, code aa or jax 0.9.2, code bb",
  ):
    assert said in row
  assert jax.__version__ not in text and jax.devices()[0].device_kind not in text
  assert "Made by several versions" not in text
  found["mixtures"] = ["the store subsets was made by 2 versions: jax 0.9.1 or 0.9.2"]
  text = text_of(found)
  assert text.index("Made by several versions") < text.index("How few training images")
  assert "the store subsets was made by 2 versions: jax 0.9.1 or 0.9.2." in text


def test_the_upper_axis_says_which_class_it_is_about() -> None:
  for of in ("a class", "the smallest class"):
    fig = figures.cumulative_share({"random": VERDICTS[2:]}, {}, class_size=60, of=of)
    [top] = fig.axes[0].child_axes
    assert top.get_xlabel() == f"per cent of {of}"


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_images_of_any_number_of_channels_are_drawn_as_they_are(channels) -> None:
  image = np.zeros((4, 4, channels), np.uint8)
  image[..., 0] = np.arange(16).reshape(4, 4) * 4 + 100  # Not the whole range.
  figure = figure_lib.Figure()
  axes = figure.subplots()
  image_figures._draw(axes, image, "")
  [drawn] = axes.images
  shown = drawn.to_rgba(drawn.get_array(), bytes=True)[..., 0]
  np.testing.assert_array_equal(shown, image[..., 0])


def test_the_page_shows_the_audit_where_there_is_one() -> None:
  heading = "What the models say of the training examples"
  names = ("brittleness.png", "datamodels.png", "calibration.png", "audit_memorised.png")
  found, drawn = summary(), dict.fromkeys(names, b"")
  assert heading not in page.page("title", of_experiment(found, drawn))
  found["audit"] = {
    "examples": 1200,
    "models": 64,
    "mean_consistency": 0.8125,
    "other_label_suggested": 31,
    "suspicious": 7,
    "memorised": 5,
  }
  found["captions"] = {"audit_memorised.png": "Most <memorised>."}
  [section] = [s for s in of_experiment(found, drawn) if s.name == "audit"]
  assert section.heading == heading and section.pictures[0].caption == "Most <memorised>."
  text = " ".join(section.texts)
  for said in ("64 models", "81.2 %", "31 of 1,200 examples", "for 7 of these"):
    assert said in text
  assert "5 examples are memorised" in text
  [section] = [s for s in of_experiment(found, drawn) if s.name == "columns"]
  assert section.tables[-1].caption == "audit.csv"


def test_a_story_shows_what_was_removed_and_how_often_models_were_right(
  monkeypatch,
) -> None:
  made, drawn = pages.planted(), []
  made.base_margins_rt[:2, 0] = -0.5
  monkeypatch.setattr(page, "png", drawn.append)
  found = [v for v in made.searches["removed"] if not v.is_repair]
  _, captions = pictures.stories(made.data, made.base_margins_rt, found)
  assert list(captions) == ["target_2.png", "target_0.png"]
  title = drawn[1].get_suptitle()
  assert "P(correct) 60% with all data, 25% of 4 models without these 3 images" in title
  assert title.endswith("mean margin -0.50 [-1.00, -0.15]")
  target, *removed = (axes.images[0].get_array()[..., 0] for axes in drawn[1].axes)
  np.testing.assert_array_equal(target, made.data.test_images[0, ..., 0])
  np.testing.assert_array_equal(removed, made.data.train_images[[5, 3, 1], ..., 0])
  shown = captions["target_0.png"].partition("by index: ")[2].split("; ")
  assert [text.split()[0] for text in shown] == ["5", "3", "1"]


def test_curves_of_unequal_classes_end_at_half_of_the_smallest() -> None:
  data = dataset(np.repeat([0, 1, 2], [30, 12, 2]), np.array([0, 1, 2]))
  found = [verdict(target, "random", -1) for target in (0, 1)]  # None of the last class.
  [axes] = pictures.shares(data, found, []).axes
  assert axes.get_xlim()[1] == 12 // 2 + 1
  assert axes.child_axes[0].get_xlabel() == "per cent of the smallest class"


def test_both_definitions_of_flipped_have_a_column_of_their_own() -> None:
  found = summarise([v._replace(accuracy=0.75) for v in VERDICTS], np.full(3, 30))
  section = sections._search("removals", "Removals", {"methods": found}, "")
  [table] = section.tables
  cells = dict(zip(table.header, table.rows[0], strict=True))
  assert (cells["in all"], cells["by accuracy"]) == ("0.50", "0.00")
  assert cells["models trained"] == "32"
  header, first = summary_text.text(found).splitlines()[:2]
  ends = [header.index(name) + len(name) for name in ("in all", "by acc.")]
  assert [first[:end].split()[-1] for end in ends] == ["0.50", "0.00"]


def test_methods_that_tried_less_have_the_same_columns() -> None:
  less = [verdict(t, "less", -1, tried=2) for t in (1, 2)]
  found = summarise([*VERDICTS, *less], np.full(3, 30))
  assert summary_text.parts(found) == ["<= 5% (1)", "<= 10% (3)", "<= 20% (6)"]
  assert summary_text.shares(found, "less") == [0, 0, 0]


def test_many_wrong_targets_are_cut_and_each_has_its_numbers() -> None:
  found = summary()
  row = {"class": "x", "base_accuracy": "0.25", "base_mean_margin": "-1.0"}
  found["wrong_targets"] = [
    row | {"target": str(t), "source": f"{t}.png"} for t in range(60)
  ]
  names = ("brittleness.png", "datamodels.png", "calibration.png")
  made = {s.name: s for s in of_experiment(found, dict.fromkeys(names, b""))}
  [table] = made["wrong"].tables
  assert [cells[0] for cells in table.rows] == [str(t) for t in range(50)]
  assert table.rows[7] == ("7", "x", "7.png", "0.25", "-1.00")
  assert made["wrong"].texts[0].endswith("The first 50; targets.csv has all.")
  quality = {row[0]: row[1] for row in made["quality"].tables[0].rows}
  assert quality["accuracy of models on all data"] == "90.0%"
  assert quality["accuracy of models on subsets"] == "80.0%"


def test_every_number_of_a_fit_has_its_own_interval() -> None:
  fit = summary()["fit_datamodels"]
  for i, name in enumerate(("lds", "lds_ceiling", "pooled_correlation")):
    fit[name] = {"estimate": 0.1 + i, "low": 0.0 + i, "high": 0.2 + i}
  rows = {name: cells for name, *cells in sections.fit_rows(fit)}
  assert [rows[name][0] for name in ("LDS", "pooled correlation")] == ["0.100", "2.100"]
  ends = {name: re.findall(r"\d\.\d+", cells[1]) for name, cells in rows.items()}
  assert [float(end) for end in ends["LDS"]] == [0, 0.2]
  assert [float(end) for end in ends["pooled correlation"]] == [2, 2.2]
  top = "noise ceiling: the LDS of a perfect prediction"
  assert rows[top][0] == "1.100" and [float(end) for end in ends[top]] == [1, 1.2]


def test_models_and_targets_that_are_left_out_are_counted() -> None:
  found = summary()
  found["fit_datamodels"] |= {"held_out_models_left_out": 2, "targets_left_out": 5}
  said = "2 models that diverged and 5 targets with constant margins are left out."
  assert said in text_of(found) and said not in text_of(summary())


def test_pictures_of_an_audit_show_the_examples_that_it_names(monkeypatch) -> None:
  drawn: list[figure_lib.Figure] = []
  monkeypatch.setattr(page, "png", lambda figure: drawn.append(figure) or b"")
  data = dataset(np.arange(6) % 2, np.array([0, 1]))
  values = {
    "memorisation": [0.25, 0.5, np.nan, -0.75, 0.0, 0.125],
    "label_quality": [0.75, 0.125, 0.5, 0.25, 0.9, 0.8],
    "opposition": [0.0, 2.0, 1.0, np.nan, 0.5, 3.0],
  }
  unknown = estimates.Estimate(*np.full((3, 6), np.nan))
  known = {
    name: estimates.Estimate(np.array(v), np.zeros(6), np.ones(6))
    for name, v in values.items()
  }
  suggested = data.train_labels ^ np.array([0, 1, 0, 1, 0, 0], np.int32)
  found = audits.Audit(
    *(data.train_labels, np.full(6, 9), np.full(6, 9), unknown, unknown),
    **known,
    suggested_labels=suggested,
  )
  made = audit_pictures.draw(data, found, [Pair(2, 4, 1.5, 9.0), Pair(1, 5, 0.5, 8.0)])
  expected = {
    "audit_suspicious.png": ["1 class 1: class 0?\n0.12", "3 class 1: class 0?\n0.25"],
    "audit_memorised.png": ["1 class 1\n+0.50", "0 class 0\n+0.25", "5 class 1\n+0.12"],
    "audit_stand_ins.png": ["2 class 0\n+1.5", "4 class 0\n+1.5"]
    + ["1 class 1\n+0.5", "5 class 1\n+0.5"],
    "audit_opposed.png": ["5 class 1\n-3.0", "1 class 1\n-2.0"]
    + ["2 class 0\n-1.0", "4 class 0\n-0.5"],
  }
  assert made.keys() == expected.keys()
  for (name, shown), figure in zip(expected.items(), drawn, strict=True):
    examples, texts = zip(*(text.split(" ", 1) for text in shown), strict=True)
    assert [axes.get_title() for axes in figure.axes] == [*texts]
    listed = "; ".join(f"{i}: {data.train_sources[int(i)]}" for i in examples)
    assert made[name].caption.endswith(f"in order, by index: {listed}.")

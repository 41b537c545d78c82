import html.parser
import io
import json

import numpy as np
import pytest
import scipy.stats
from etils import epath
from PIL import Image
from support.pages import HOSTILE, NUMBERS, planted, write_audit

from jaxdm.report import browser, example_browser, page


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_thumbnails_are_the_images(channels) -> None:
  rng = np.random.default_rng(0)
  images = [rng.integers(0, 256, (4, 6, channels)).astype(np.uint8) for _ in range(5)]
  sprite, cells = browser.make_sprite(images)
  sheet = np.array(Image.open(io.BytesIO(sprite)))
  for cell, image in enumerate(images):
    left, top = cell % cells["columns"] * 6, cell // cells["columns"] * 4
    shown = sheet[top : top + 4, left : left + 6]
    for channel in range(3):
      expected = image[..., 0 if channels == 1 else channel]
      np.testing.assert_array_equal(shown[..., channel], expected)


def test_large_images_become_small() -> None:
  images = [np.full((200, 100, 3), 80, np.uint8)] * 3
  sprite, cells = browser.make_sprite(images)
  assert (cells["width"], cells["height"]) == (16, 32)
  assert len(sprite) < 1000


def test_the_curve_is_what_the_datamodel_predicts() -> None:
  made = planted()
  shown = browser.make_browser(*made).data["targets"]
  [search] = [s for s in shown[2]["searches"] if s["method"] == "random"]
  for k, margin in search["predicted"]:
    mask = np.ones(12, bool)
    mask[[5, 3, 1, 0, 2, 4][:k]] = False
    assert margin == pytest.approx(made.models.predict(mask)[2], abs=1e-3)
  assert [k for k, _ in search["predicted"]] == list(range(7))
  assert "predicted" not in shown[2]["searches"][-1]  # New labels.
  [search, relabelled] = shown[3]["searches"]
  assert search["repair"] and relabelled["repair"] and relabelled["k"] is None
  assert not any(s["repair"] for one in shown[:3] for s in one["searches"])


def test_supporters_and_opposers_have_the_extreme_weights() -> None:
  made = planted()
  for one in browser.make_browser(*made).data["targets"]:
    weights = made.models.weights_tn[one["target"]]
    ascending = sorted(range(12), key=lambda e: weights[e])
    positive = [e for e in ascending[::-1] if weights[e] > 0][:10]
    negative = [e for e in ascending if weights[e] < 0][:10]
    assert [e for e, _ in one["supporters"]] == positive
    assert [e for e, _ in one["opposers"]] == negative
    for example, weight in one["supporters"] + one["opposers"]:
      assert weight == pytest.approx(weights[example], abs=1e-4)


@pytest.fixture
def audited(tmp_path):
  """What was planted, its audit's rows, and what the browser makes of both."""
  made = planted()
  rows = write_audit(epath.Path(tmp_path / "audit.csv"), ("class 0", "class 1"))
  return made, rows, browser.make_browser(*made, rows)


def test_examples_have_the_targets_with_the_extreme_weights(audited) -> None:
  made, rows, found = audited
  shown = found.data["audit"]["shown"]
  assert [one["example"] for one in shown] == list(range(12))
  for one in shown:
    weights = dict(enumerate(made.models.weights_tn[:, one["example"]].tolist()))
    order = sorted(weights, key=weights.__getitem__)
    assert [t for t, _ in one["supports"]] == [t for t in order[::-1] if weights[t] > 0]
    assert [t for t, _ in one["opposes"]] == [t for t in order if weights[t] < 0]
    for target, weight in one["supports"] + one["opposes"]:
      assert weight == pytest.approx(weights[target], abs=1e-4)
    assert one["models_out"] == int(rows[one["example"]]["models_out"])
  json.dumps(found.data, allow_nan=False)
  assert shown[4]["numbers"] == dict.fromkeys(NUMBERS)
  assert shown[7]["numbers"]["support"] is None


def test_every_image_is_in_the_sheet_once(audited) -> None:
  made, _, found = audited
  cells, sheet = found.data["cells"], Image.open(io.BytesIO(found.sprite))
  assert (
    cells["columns"] * cells["rows"] >= 4 + 12 > cells["columns"] * (cells["rows"] - 1)
  )
  places = [cell for *_, cell in found.data["examples"].values()]
  assert sorted(places) == list(range(4, 16))
  for example, (_, _, cell) in found.data["examples"].items():
    left, top = cell % cells["columns"] * 6, cell // cells["columns"] * 4
    shown = np.array(sheet)[top : top + 4, left : left + 6, 0]
    np.testing.assert_array_equal(shown, made.data.train_images[int(example), ..., 0])


def test_many_examples_make_no_large_page(audited) -> None:
  _, rows, _ = audited
  rng = np.random.default_rng(0)
  count, names = 5_000, ("label_quality", "memorisation", "support", "opposition")
  many = [rows[i % 12] | {n: f"{rng.random():.6g}" for n in names} for i in range(count)]
  weights = rng.normal(size=(300, count)).astype(np.float32)
  found = example_browser.describe_examples(many, weights, list(range(300)))
  assert found["total"] == count
  assert len(json.dumps(found)) < 1e6


def test_of_many_examples_the_extreme_ones_are_shown(audited, monkeypatch) -> None:
  made, rows, _ = audited
  monkeypatch.setattr(example_browser, "_MOST_EXAMPLES", 4)
  first = {1}  # The lowest label quality.
  for name in ("memorisation", "support", "opposition"):
    values = [float(row[name] or "nan") for row in rows]
    first.add(int(np.nanargmax(values)))
  assert len(first) == 4
  assert set(example_browser.most_extreme(rows)) == first
  found = browser.make_browser(*made, rows).data
  assert found["audit"]["total"] == 12 and len(found["audit"]["shown"]) == 4


def test_numbers_that_are_not_finite_are_null() -> None:
  shown = browser.make_browser(*planted()).data
  json.dumps(shown, allow_nan=False)
  assert shown["targets"][1]["searches"][1]["mean"] == [-0.5, None, None]


def test_targets_that_were_searched_are_shown_first(monkeypatch) -> None:
  monkeypatch.setattr(browser, "_MOST_TARGETS", 2)
  made = planted()
  searches = {"removed": [v for v in made.searches["removed"] if v.target == 2]}
  shown = browser.make_browser(*made[:3], searches).data
  assert [one["target"] for one in shown["targets"]] == [0, 2]
  assert shown["num_targets"] == 4


class _Scripts(html.parser.HTMLParser):
  """Collects the elements of a page, and the text of its JSON."""

  def __init__(self) -> None:
    super().__init__()
    self.tags: list[str] = []
    self.json = ""
    self._inside = False

  def handle_starttag(self, tag, attrs) -> None:
    self.tags.append(tag)
    self._inside = ("type", "application/json") in attrs

  def handle_data(self, data) -> None:
    self.json += data if self._inside else ""


def test_names_of_people_are_no_part_of_the_page() -> None:
  made = planted(
    class_names=(HOSTILE, "{{ 7 * 7 }}"),
    test_sources=(HOSTILE, "b", "c", "d"),
  )
  section = page.Section(page.TARGETS, HOSTILE, [HOSTILE])
  shown = browser.make_browser(*made)
  text = page.page(HOSTILE, [section], opening=[HOSTILE], warning=HOSTILE, browser=shown)
  found = _Scripts()
  found.feed(text)
  assert "img" not in found.tags
  assert found.tags.count("script") == 2
  assert json.loads(found.json)["classes"] == [HOSTILE, "{{ 7 * 7 }}"]


def test_vectors_have_no_thumbnails() -> None:
  vectors = {
    "train_images": np.ones((12, 3), np.float32),
    "test_images": np.ones((4, 3), np.float32),
  }
  made = planted(**vectors)
  shown = browser.make_browser(*made)
  assert shown.sprite == b"" and shown.data["cells"] is None
  section = page.Section(page.TARGETS, "targets")
  assert "image/webp" not in page.page("title", [section], browser=shown)


def test_targets_and_searches_have_their_own_numbers() -> None:
  made = planted()
  made.base_margins_rt[:2, 1] = -0.5
  shown = browser.make_browser(*made).data["targets"]
  for one, margins in zip(shown, made.base_margins_rt.T, strict=True):
    assert one["accuracy"] == sum(m > 0 for m in margins) / 5
    error = scipy.stats.sem(margins)
    ends = scipy.stats.t.interval(0.95, 4, margins.mean(), error)
    np.testing.assert_allclose(one["mean"], [margins.mean(), *ends], atol=1e-4)
    np.testing.assert_allclose(one["margins"], margins, atol=1e-4)
  assert [one["accuracy"] for one in shown] == [1, 0.6, 1, 0]
  expected = {"tried": 3, "models": 4, "largest": 6, "trained": 16, "accuracy": 0.25}
  expected |= {"largest_margin": -2, "mean": [-0.5, -1, -0.15]}
  assert expected.items() <= shown[0]["searches"][0].items()


def test_examples_name_targets_by_their_own_numbers(audited) -> None:
  made, rows, _ = audited
  found = example_browser.describe_examples(rows, made.models.weights_tn, [3, 1])
  for one in found["shown"]:
    weights = {t: float(made.models.weights_tn[t, one["example"]]) for t in (3, 1)}
    order = sorted(weights, key=weights.__getitem__)
    assert [t for t, _ in one["supports"]] == [t for t in order[::-1] if weights[t] > 0]
    assert [t for t, _ in one["opposes"]] == [t for t in order if weights[t] < 0]
    for target, weight in one["supports"] + one["opposes"]:
      assert weight == pytest.approx(weights[target], abs=1e-4)

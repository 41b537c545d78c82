"""What bad input gets: one line that names the flag, and nothing is touched."""

import json
import re

import numpy as np
import pytest
from absl.testing import flagsaver
from support import bad_data
from support.programs import TOY

from experiments import (
  brittleness,
  fit_datamodels,
  label_flip,
  pipeline,
  repair,
  report,
  train_subsets,
)
from experiments.bench import plan, trainer
from experiments.ops import bank, status
from experiments.runtime import program
from experiments.studies import efficiency, explain, removal_curves
from jaxdm.data.arrays import load_arrays
from jaxdm.data.dataset import DataError

# Launcher, flags, and what the one line says.
TABLE = [
  # Settings of the models.
  (pipeline, {"alpha": "1.5"}, "--alpha must be in (0, 1), got 1.5"),
  (pipeline, {"alpha": "0"}, "--alpha must be in (0, 1), got 0"),
  (pipeline, {"alpha": "nan"}, "--alpha must be in (0, 1), got nan"),
  (pipeline, {"alpha": "0.999"}, "--alpha must leave out at least 1 of 48 examples"),
  (pipeline, {"num_models": "1"}, "--num_models must be an integer >= 2, got 1"),
  (pipeline, {"num_held_out": "0"}, "--num_held_out must be an integer >= 2, got 0"),
  (pipeline, {"held_out_seeds": "0"}, "--held_out_seeds must be an integer >= 1, got 0"),
  (pipeline, {"num_base": "0"}, "--num_base must be an integer >= 2, got 0"),
  (pipeline, {"seed": "-1"}, "--seed must be an integer in [0, 2**32), got -1"),
  (
    pipeline,
    {"seed": "4294967296"},
    "--seed must be an integer in [0, 2**32), got 4294967296",
  ),
  (
    pipeline,
    {"batch_size": "25"},
    "--batch_size must be at most alpha * n = 0.5 * 48 = 24, got 25",
  ),
  (train_subsets, {"batch_size": "0"}, "--batch_size must be an integer >= 1, got 0"),
  (train_subsets, {"width": "0"}, "--width must be an integer >= 1, got 0"),
  (train_subsets, {"epochs": "-1"}, "--epochs must be positive, got -1"),
  (train_subsets, {"epochs": "nan"}, "--epochs must be positive, got nan"),
  (train_subsets, {"epochs": "inf"}, "--epochs must be positive, got inf"),
  (train_subsets, {"peak_learning_rate": "0"}, "--peak_learning_rate must be positive"),
  (train_subsets, {"peak_at": "1"}, "--peak_at must be in (0, 1), got 1.0"),
  (train_subsets, {"momentum": "1"}, "--momentum must be in [0, 1), got 1.0"),
  (train_subsets, {"label_smoothing": "-1"}, "--label_smoothing must be in [0, 1)"),
  (train_subsets, {"weight_decay": "-1"}, "--weight_decay must be >= 0, got -1.0"),
  (train_subsets, {"muon_rate": "-1"}, "--muon_rate must be >= 0, got -1.0"),
  (
    train_subsets,
    {"cutout_pixels": "-1"},
    "--cutout_pixels must be an integer >= 0, got -1",
  ),
  (
    train_subsets,
    {"translate_pixels": "-2"},
    "--translate_pixels must be an integer >= 0, got -2",
  ),
  (train_subsets, {"compute_dtype": "float8"}, "--compute_dtype must be float32 or"),
  (train_subsets, {"chunk": "0"}, "--chunk must be an integer >= 1, got 0"),
  (train_subsets, {"vmap_width": "0"}, "--vmap_width must be an integer >= 1, got 0"),
  # Data.
  (pipeline, {"classes": "shirt"}, "--classes must be two or more of"),
  (pipeline, {"classes": "shirt,hat"}, "--classes must be two or more of"),
  (pipeline, {"train_per_class": "601"}, "--train_per_class must be in [1, 600]"),
  (pipeline, {"test_per_class": "-1"}, "--test_per_class must be an integer >= 0"),
  (pipeline, {"downscale": "5"}, "--downscale must divide the image size 28x28, got 5"),
  (pipeline, {"dataset": "no_such_set"}, "--dataset 'no_such_set' is none that TFDS"),
  (pipeline, {"dataset": "arrays"}, "--dataset 'arrays' needs a file"),
  (pipeline, {"dataset": "folder"}, "--dataset 'folder' needs one: data_dir=FOLDER"),
  (pipeline, {"dataset": "folder", "data_dir": "/no"}, "--data_dir: /no/train cannot be"),
  (
    pipeline,
    {"dataset": "arrays", "arrays": "/no/file.npz"},
    "--arrays=/no/file.npz cannot be read",
  ),
  (pipeline, {"downscale": "14"}, "--downscale=14 leaves images of 2x2 pixels; 3x3 are"),
  (pipeline, {"num_models": "9"}, "9 models are too few: folds=5 holds 2 of them out"),
  # Paths.
  (train_subsets, {"workdir": "/dev/null"}, "--workdir=/dev/null cannot be read"),
  (train_subsets, {"workdir": "/dev/null/run"}, "--workdir=/dev/null/run cannot be read"),
  (train_subsets, {"workdir": f"/tmp/{'x' * 300}"}, "--workdir=/tmp/x.*x cannot be read"),
  (status, {"workdir": "/\udcff"}, "--workdir=/\udcff holds no experiment"),
  (train_subsets, {"workdir": "/proc/\udce4"}, "--workdir=/proc/\udce4 cannot be writ"),
  (train_subsets, {"bank_dir": "/dev/null"}, "--bank_dir=/dev/null cannot be used: "),
  (
    pipeline,
    {"dataset": "folder", "data_dir": "/dev/null"},
    "--data_dir: /dev/null/tr",
  ),
  (
    pipeline,
    {"dataset": "folder", "data_dir": "/\udcff"},
    "--data_dir: /\udcff/train",
  ),
  (pipeline, {"arrays": "/dev/null"}, "--arrays=/dev/null cannot be read"),
  (pipeline, {"arrays": "/"}, "--arrays=/ cannot be read"),
  (pipeline, {"arrays": "/no/\udcff.npz"}, "--arrays=/no/\udcff.npz cannot be read"),
  (fit_datamodels, {"masks": "/", "margins": "/"}, "--masks=/ is not a whole .npy file"),
  (
    bank,
    {"do": "import", "masks": "/no", "margins": "/no"},
    "--masks=/no is not a",
  ),
  # Fitting.
  (fit_datamodels, {"priors": "twos"}, "--priors must be some of none, class, similar"),
  (fit_datamodels, {"priors": "none,none"}, "--priors must be some of none, class"),
  (fit_datamodels, {"damping": "0"}, "--damping must be in [0.0001, 1e+10], got 0"),
  (fit_datamodels, {"moments": "0"}, "--moments must be an integer >= 1, got 0"),
  (
    fit_datamodels,
    {"gradient_dim": "0"},
    "--gradient_dim must be an integer >= 1, got 0",
  ),
  (fit_datamodels, {"lambda_min_ratio": "1"}, "--lambda_min_ratio must be in (0, 1)"),
  (fit_datamodels, {"num_lambdas": "0"}, "--num_lambdas must be an integer >= 1, got 0"),
  (fit_datamodels, {"validation_share": "1"}, "--validation_share must be in (0, 1)"),
  (fit_datamodels, {"tol": "0"}, "--tol must be positive, got 0.0"),
  (fit_datamodels, {"folds": "0"}, "--folds must be an integer >= 1, got 0"),
  (fit_datamodels, {}, "--workdir=.* lacks a finished train_subsets; run python -m"),
  # Searching.
  (brittleness, {"methods": "best"}, "--methods must be some of datamodel, influence"),
  (brittleness, {"methods": ""}, "--methods must be some of datamodel, influence"),
  (brittleness, {"confidence": "0.4"}, "--confidence must be in (0.5, 0.9999], got 0.4"),
  (brittleness, {"confidence": "1"}, "--confidence must be in (0.5, 0.9999], got 1.0"),
  (
    brittleness,
    {"verify_seeds": "1"},
    "--verify_seeds must be an integer in [2, 1000], got 1",
  ),
  (brittleness, {"search_models": "0"}, "--search_models must be an integer >= 1, got 0"),
  (brittleness, {"max_share": "0"}, "--max_share must be in (0, 1), got 0"),
  (brittleness, {"max_share": "1"}, "--max_share must be in (0, 1), got 1.0"),
  (brittleness, {"num_targets": "0"}, "--num_targets must be an integer >= 1, got 0"),
  (brittleness, {"num_sizes": "0"}, "--num_sizes must be an integer >= 1, got 0"),
  (brittleness, {"search_targets": "3,x"}, "--search_targets must be indices such as"),
  (brittleness, {"search_targets": "3,20"}, "--search_targets must be in [0, 20)"),
  (brittleness, {}, "--workdir=.* lacks a finished fit_datamodels; run python -m"),
  (pipeline, {"flip_to": "shirt"}, "--flip_to=shirt needs targets of other classes"),
  (
    pipeline,
    {"flip_to": "shirt", "search_targets": ",".join(map(str, range(20)))},
    "--flip_to must not be the class of a target; it is that of 10 of 20",
  ),
  (repair, {"methods": "best"}, "--methods must be some of datamodel, influence"),
  (repair, {}, "--workdir=.* lacks a finished fit_datamodels; run python -m"),
  (label_flip, {"flip_to": "hat"}, "--flip_to must be runner-up, best or one of"),
  (label_flip, {}, "--workdir=.* lacks a finished fit_datamodels; run python -m"),
  (removal_curves, {}, "--workdir=.* lacks a finished fit_datamodels; run python -m"),
  (explain, {}, "--workdir=.* lacks a finished fit_datamodels; run python -m"),
  (efficiency, {}, "--workdir=.* lacks a finished train_subsets; run python -m"),
  (report, {}, "--workdir=.* lacks a finished train_subsets; run python -m"),
  # Sharing and looking after.
  (train_subsets, {"shard": "2/2"}, "--shard must be i/N with 0 <= i < N, got '2/2'"),
  (train_subsets, {"shard": "one"}, "--shard must be i/N with 0 <= i < N, got 'one'"),
  (
    train_subsets,
    {"shard": "0/2", "distributed": "true"},
    "--shard and --distributed exclude each other",
  ),
  (fit_datamodels, {"shard": "0/2"}, "--shard: processes that work together must be"),
  (status, {"workdir": "/proc/none/run"}, "--workdir=/proc/none/run holds no experiment"),
  (train_subsets, {"workdir": "/proc/run"}, "--workdir=/proc/run cannot be written"),
  (pipeline, {"shard": "0/2"}, "--shard: processes that work together must be one job"),
  (brittleness, {"own_disk": "true"}, "--own_disk is for train_subsets; here processes"),
  (explain, {"shard": "0/2"}, "--shard and --distributed are for programs whose --help"),
  (bank, {"do": "verify"}, "--workdir=.* holds no models yet"),
  (bank, {"do": "show"}, "--workdir=.* holds no models yet"),
  (bank, {"do": "export", "other": "x"}, "--workdir=.* holds no models yet"),
  (train_subsets, {"bank_dir": "/proc/x"}, "--bank_dir=/proc/x cannot be used: "),
  (bank, {"do": "merge"}, "--other is for --do=merge and --do=export, which need it"),
  (bank, {"do": "show", "other": "x"}, "--other is for --do=merge and --do=export"),
  (status, {}, "--workdir=.* holds no experiment"),
  # Images of one's own; MADE is the folder of `bad_data`.
  *(
    (train_subsets, {"dataset": "folder", "data_dir": f"MADE/{name}"}, message)
    for name, message in [
      ("text", "--data_dir: MADE/text/train/a/Thumbs.db is no image that can be used"),
      ("deep", "--data_dir: MADE/deep/test/b/1.png is no image that can be used: pixels"),
      ("unequal", "--data_dir: MADE/unequal/test/b/1.png is 4x6 pixels but the first"),
      ("nested", "--data_dir: MADE/nested/train/a/more is no file; images must be in"),
      ("dangling", "--data_dir: MADE/dangling/train/c is a link to nothing; mend it"),
      ("cut", "--data_dir: MADE/cut/test/a/0.png is no image that can be used"),
      ("other", "--data_dir: MADE/other/test/c/0.png is of a class that MADE/other/tr"),
      ("text/train/a", "--data_dir: MADE/text/train/a/train cannot be read"),
      ("table.npz", "--data_dir: MADE/table.npz/train cannot be read"),
      ("tfds", "--data_dir: MADE/tfds/train cannot be read"),
    ]
  ),
  (
    train_subsets,
    {"dataset": "folder", "data_dir": "MADE/text", "background": "whitish"},
    "--background must be a colour such as white",
  ),
  *(
    (train_subsets, {"arrays": f"MADE/{name}.npz"}, f"--arrays=MADE/{name}.npz{message}")
    for name, message in [
      ("beyond", ": train_images must be in [0, 1] when float, got 255.0 to 255.0; "),
      ("first", ": test_images must be .*as if test_images.transpose(0, 2, 3, 1) br"),
      ("wide", ": train_images must be uint8 or float in [0, 1], got int64; give"),
      ("none", ": train_images must have pixels, got [6, 0, 6, 3]"),
      ("objects", ": train_images cannot be read: Object arrays hold Python objects"),
      ("table", " cannot be read: File is not a zip file; it must be an .npz"),
      # Labels.
      ("one-hot", ": train_labels are one-hot; give train_labels.argmax(axis=1)"),
      ("floats", ": train_labels must be integers .*; give train_labels.astype(int)"),
      ("unknown", ": test_labels must be among the 2 train_labels 0, 1, got 7 as well"),
      ("mixed", ": train_labels and test_labels must be of one kind"),
      ("uncounted", ": 6 train_images but 5 train_labels"),
      ("names", ": class_names must differ from each other, got one twice"),
      ("too-large", ": train_labels must be below 2**63, got 9223372036854775808"),
    ]
  ),
  (
    train_subsets,
    {"arrays": "MADE/single.npz"},
    "arrays=MADE/single.npz has one class",
  ),
  # Flags that would have no effect.
  (train_subsets, {"arrays": "x", "dataset": "cifar10"}, "--arrays is for --dataset=arr"),
  (train_subsets, {"arrays": "x", "dataset": "fashion"}, "--arrays is for --dataset=arr"),
  (
    train_subsets,
    {"data_dir": "MADE/text"},
    "--data_dir is for --dataset=folder and for",
  ),
  (pipeline, {"data_dir": "x", "arrays": "MADE/wide.npz"}, "--data_dir is for --dataset"),
  (pipeline, {"background": "black"}, "--background is for image files; got --dataset=f"),
  (pipeline, {"masks": "x", "margins": "x"}, "--margins has no effect in this program"),
  (train_subsets, {"targets": "0:3"}, "--targets has no effect in this program"),
  (brittleness, {"drop_nonfinite": "true"}, "--drop_nonfinite has no effect in this"),
  (fit_datamodels, {"budget_models": "9"}, "--budget_models has no effect in this"),
  (report, {"other": "x"}, "--other has no effect in this program"),
  (status, {"width": "3"}, "--width has no effect in this program"),
  # Prepared sets.
  *(
    (train_subsets, {"dataset": name, "data_dir": "MADE/tfds"}, message)
    for name, message in [
      ("no_such_set", "--dataset 'no_such_set' is none that TFDS knows: "),
      ("../mine", "--dataset '../mine' cannot be loaded: Parsing builder name string"),
      ("", "--dataset '' cannot be loaded: Parsing builder name string"),
      ("mnist", "--dataset 'mnist' is not prepared in MADE/tfds/mnist. Prepare it once"),
      ("cifar10", "--dataset 'cifar10' is not prepared in MADE/tfds/cifar10. Prepare"),
      ("cut:2.0.0", "--dataset 'cut:2.0.0' is none that TFDS knows"),
      ("damaged_info", "--dataset 'damaged_info' cannot be loaded: Failed to "),
      ("damaged_features", "--dataset 'damaged_features' cannot be loaded: "),
      ("lost", "--dataset 'lost' cannot be read: MADE/tfds/lost/1.0.0/lost-train.tfre"),
      ("cut", "--dataset 'cut' cannot be read: MADE/tfds/cut/1.0.0/cut-test.tfrecord-0"),
      ("without_labels", "--dataset 'without_labels' needs features image and label"),
      ("without_test", "--dataset 'without_test' needs features image and label and sp"),
      ("empty", "--dataset 'empty' has no examples in its split train"),
      ("unequal", "--dataset 'unequal' has images of unequal shapes, such as (1, 3, 1)"),
      ("deep", "--dataset 'deep' needs images of uint8, and has "),
    ]
  ),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> str:
  """The folder of `bad_data`."""
  folder = tmp_path_factory.mktemp("made")
  bad_data.write(folder)
  return str(folder)


@pytest.mark.parametrize("module,given,message", TABLE, ids=lambda v: str(v)[:40])
def test_one_line_names_the_flag_and_nothing_is_touched(
  tmp_path, made, module, given, message
) -> None:
  folder = tmp_path / "run"
  toy = {} if module is status else TOY  # Which takes no settings.
  given = {name: value.replace("MADE", made) for name, value in given.items()}
  message = message.replace("MADE", made)
  pattern = "error: " + re.escape(message).replace(r"\.\*", ".*")
  with (
    flagsaver.as_parsed(**{"workdir": str(folder), **toy, **given}),
    pytest.raises(SystemExit) as caught,
  ):
    module.PROGRAM.start(["prog"])
  text = str(caught.value)
  assert re.match(pattern, text), text
  assert "\n" not in text
  # Nothing but the lock and an empty folder of a stage that could not begin.
  files = [path.name for path in folder.rglob("*") if path.is_file()]
  assert [name for name in files if not name.startswith(".lock")] == []


def test_the_table_is_long_enough() -> None:
  assert len(TABLE) >= 130
  assert len({module for module, _, _ in TABLE}) >= 10


@pytest.mark.parametrize(
  "main,given,message",
  [
    (plan.main, {"bench": "none.json"}, "--bench=none.json cannot be read"),
    (trainer.main, {"rows": "w9"}, "--rows must be some of"),
  ],
)
def test_benchmarks_too(main, given, message) -> None:
  with flagsaver.as_parsed(**given), pytest.raises(SystemExit) as caught:
    main(["prog"])
  assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "argument,message",
  [
    ("--seed=x", "error: flag --seed=x: .*'x'.*; see --help"),
    ("--preset=cifar", "error: flag --preset=cifar: value should be one of .*"),
    ("--no_such_flag=1", "error: Unknown command line flag 'no_such_flag'.*see --help"),
  ],
)
def test_errors_of_the_command_line_are_one_line_too(argument, message) -> None:
  with flagsaver.flagsaver(), pytest.raises(SystemExit) as caught:
    program.parse(["prog", argument])
  assert re.fullmatch(message, str(caught.value)), caught.value


def noise(rng: np.random.Generator, whole: bytes) -> bytes:
  """A damaged copy of a file's content."""
  kind = rng.integers(4)
  content = bytearray(whole)
  if kind == 0:
    return bytes(content[: rng.integers(len(content))])
  if kind == 1:
    return rng.bytes(int(rng.integers(1, 400)))
  for place in rng.integers(len(content), size=rng.integers(1, 6)):
    content[place] ^= 1 << rng.integers(8)
  return bytes(content) + (rng.bytes(9) if kind == 3 else b"")


@pytest.mark.slow
def test_damaged_arrays_are_an_error_or_read_right(tmp_path) -> None:
  """An .npz has a checksum for each array; an .npy's header is checked."""
  rng, path = np.random.default_rng(0), tmp_path / "mine.npz"
  images = rng.integers(0, 256, (8, 4, 4, 1)).astype(np.uint8)
  labels = np.arange(8) % 2
  arrays = {"train_images": images, "train_labels": labels}
  np.savez(path, **arrays, test_images=images, test_labels=labels)
  whole, clear, right = path.read_bytes(), 0, 0
  for _ in range(1000):
    path.write_bytes(noise(rng, whole))
    try:
      found = load_arrays(path)
      np.testing.assert_array_equal(found.train_images, images)
      np.testing.assert_array_equal(found.test_labels, labels)
      right += 1
    except DataError as error:
      assert f"arrays={path}" in str(error), error
      clear += 1
  assert clear > 500 and clear + right == 1000


@pytest.mark.slow
def test_damaged_matrices_are_an_error(tmp_path) -> None:
  rng, path = np.random.default_rng(1), tmp_path / "masks.npy"
  masks = rng.random((40, 16)) < 0.5
  np.save(path, masks)
  np.save(tmp_path / "margins.npy", rng.normal(size=(40, 3)).astype(np.float16))
  whole, clear = path.read_bytes(), 0
  given = {"masks": str(path), "margins": str(tmp_path / "margins.npy")}
  given |= {"workdir": str(tmp_path / "run"), "num_held_out": "8"}
  with flagsaver.as_parsed(**given):
    for _ in range(1000):
      # Only the header: a changed number cannot be told from another experiment's.
      path.write_bytes(noise(rng, whole[:128]) + whole[128:])
      try:
        files = fit_datamodels.open_any()
        np.testing.assert_array_equal(files.masks[:], masks)
      except ValueError as error:
        assert "masks" in str(error), error
        clear += 1
  assert clear > 500


def test_no_pickle_is_ever_loaded(tmp_path) -> None:
  class Evil:
    def __reduce__(self):
      return (json.dumps, ({"opened": True},))

  evil = np.array([[Evil()]], dtype=object)
  np.save(tmp_path / "masks.npy", evil, allow_pickle=True)
  np.savez(tmp_path / "mine.npz", train_images=evil)
  given = {"masks": str(tmp_path / "masks.npy"), "margins": str(tmp_path / "masks.npy")}
  with (
    flagsaver.as_parsed(workdir=str(tmp_path / "run"), **given),
    pytest.raises(ValueError, match="not a whole .npy file: .*Python objects"),
  ):
    fit_datamodels.open_any()
  with pytest.raises(DataError, match="cannot be read: Object arrays"):
    load_arrays(tmp_path / "mine.npz")

"""Folders of image files of every kind: shown as they were made, or refused in a line."""

import dataclasses
import functools
import io
import os
import pathlib
import struct
import zlib
from collections.abc import Callable

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.PngImagePlugin
import pytest
from hypothesis import strategies as st
from support import fuzz

from jaxdm.data.dataset import DataError
from jaxdm.data.load import load_dataset

HEIGHT, WIDTH = 3, 5
BACKGROUNDS = {
  "white": (255, 255, 255),
  "#000": (0, 0, 0),
  "#80808080": (128, 128, 128),
  "rgb(10, 200, 30)": (10, 200, 30),
  "rgb(300, 200, 30)": (255, 200, 30),
}
NAMES = [
  "a.png",
  "A.PNG",
  "no suffix",
  "wrong.jpg",
  " space .png",
  "ünï.png",
  "u\u0308.png",
  "日本.png",
  "[a]*?.png",
  "new\nline.png",
  os.fsdecode(b"caf\xe9.png"),
  "-x=~#%41:.png",
  "a.b.c",
  "$x$ <b>&.png",
]
CLASSES = [
  "a",
  "B",
  "é",
  "e\u0301",
  "[0]",
  "c d",
  "10",
  "9",
  os.fsdecode(b"\xff"),
  "x\ny",
]


@dataclasses.dataclass
class Picture:
  """Numbers that were chosen, and a file that was made of them.

  Attributes:
    rgb: float[h, w, 3], what the opaque part shows.
    alpha: float[h, w], in [0, 1].
    is_grey: whether the file holds no colours.
    file: its content.
    error: how far what is shown may be away.
  """

  rgb: np.ndarray
  alpha: np.ndarray
  is_grey: bool
  file: bytes
  error: int = 1

  def over(self, background: tuple[int, int, int]) -> np.ndarray:
    """What is seen."""
    alpha = self.alpha[..., None]
    return self.rgb * alpha + np.array(background, float) * (1 - alpha)

  def grey_over(self, background: tuple[int, int, int]) -> bool:
    """Whether it is seen without colours."""
    return self.is_grey and (len(set(background)) == 1 or bool((self.alpha == 1).all()))


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
  """What the tag means, by the names of the sides: row 0 is top, right, ..."""
  flipped = stored[:, ::-1] if orientation in (2, 4, 5, 7) else stored
  turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
  return np.rot90(flipped, turns)


def stored_for(shown: np.ndarray, orientation: int) -> np.ndarray:
  """What a file holds so that it is shown like this."""
  place = np.arange(shown.shape[0] * shown.shape[1]).reshape(shown.shape[:2])
  turned = orientation > 4
  empty = place.reshape(place.shape[::-1]) if turned else place
  source = upright(empty, orientation)  # Which stored pixel each shown one is.
  stored = np.zeros((empty.size, *shown.shape[2:]), shown.dtype)
  stored[source.reshape(-1)] = shown.reshape(-1, *shown.shape[2:])
  return stored.reshape(*empty.shape, *shown.shape[2:])


def saved(image: PIL.Image.Image, kind: str, **options) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def png_of(
  height: int, width: int, bits: int, colour: int, rows: bytes, *chunks
) -> bytes:
  """A PNG by the letter of its specification."""

  def chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

  head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
  parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@functools.cache
def srgb_profile() -> bytes:
  return PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()


@functools.cache
def swapped_profile() -> bytes:
  """Of images whose red is called blue: sRGB with the names of two primaries swapped."""
  profile = bytearray(srgb_profile())
  red, blue = (profile.index(name, 128) for name in (b"rXYZ", b"bXYZ"))
  profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
  return bytes(profile)


@functools.cache
def gamma_grey_profile() -> bytes:
  """Of grey images whose numbers to the power of 1.8 are in proportion to light."""
  tags = {
    b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061),
    b"kTRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, round(1.8 * 256)),
    b"desc": b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78),
  }
  head = bytearray(srgb_profile()[:128])
  head[8:12], head[16:20] = b"\x02\x10\0\0", b"GRAY"
  table, body = struct.pack(">I", len(tags)), b""
  for name, content in tags.items():
    content += bytes(-len(content) % 4)
    table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
    body += content
  head[:4] = struct.pack(">I", 128 + len(table) + len(body))
  return bytes(head) + table + body


@st.composite
def pictures(draw) -> Picture:
  """A file of a kind that is shown."""
  rng = np.random.default_rng(draw(st.integers(0, 2**32)))
  grey = rng.integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
  colour = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
  alpha = rng.choice([0, 60, 128, 255], (HEIGHT, WIDTH)).astype(np.uint8)
  opaque = np.ones((HEIGHT, WIDTH))
  kind = draw(st.sampled_from(sorted(MAKERS)))
  return MAKERS[kind](draw, grey, colour, alpha, opaque)


def threefold(grey: np.ndarray) -> np.ndarray:
  return np.repeat(grey.astype(float)[..., None], 3, axis=-1)


def make_bits(draw, grey, colour, alpha, opaque) -> Picture:
  form = draw(st.sampled_from(["PNG", "BMP", "TIFF", "PPM", "GIF", "XBM"]))
  bits = grey > 127
  image = PIL.Image.fromarray(bits)
  if form == "XBM":  # Whose 1 is black.
    image = PIL.Image.fromarray(~bits)
  shown = ~bits * 255 if form == "XBM" else bits * 255
  return Picture(threefold(shown), opaque, True, saved(image, form))


def make_grey(draw, grey, colour, alpha, opaque) -> Picture:
  form = draw(st.sampled_from(["PNG", "BMP", "TIFF", "PPM", "TGA", "PCX", "SGI", "JPEG"]))
  if form == "JPEG":
    grey = np.full_like(grey, grey[0, 0])
  options = {"quality": 100} if form == "JPEG" else {}
  image = PIL.Image.fromarray(grey)
  return Picture(threefold(grey), opaque, True, saved(image, form, **options))


def make_grey_alpha(draw, grey, colour, alpha, opaque) -> Picture:
  form = draw(st.sampled_from(["PNG", "TIFF", "TGA"]))
  image = PIL.Image.fromarray(np.stack([grey, alpha], -1), "LA")
  return Picture(threefold(grey), alpha / 255, True, saved(image, form))


def make_colour(draw, grey, colour, alpha, opaque) -> Picture:
  form = draw(
    st.sampled_from(["PNG", "BMP", "TIFF", "PPM", "TGA", "PCX", "SGI", "WEBP", "JPEG"])
  )
  options = {"lossless": True} if form == "WEBP" else {}
  if form == "JPEG":
    colour = np.broadcast_to(colour[0, 0], colour.shape).copy()
    options = {"quality": 100, "subsampling": 0, "progressive": draw(st.booleans())}
  if form == "TIFF":
    options = {"compression": draw(st.sampled_from([None, "tiff_lzw", "packbits"]))}
  image = PIL.Image.fromarray(colour)
  file = saved(image, form, **options)
  return Picture(colour.astype(float), opaque, False, file, 3 if form == "JPEG" else 1)


def make_colour_alpha(draw, grey, colour, alpha, opaque) -> Picture:
  form = draw(st.sampled_from(["PNG", "TIFF", "TGA", "WEBP"]))
  options = {"lossless": True, "exact": True} if form == "WEBP" else {}
  image = PIL.Image.fromarray(np.dstack([colour, alpha]))
  file = saved(image, form, **options)
  return Picture(colour.astype(float), alpha / 255, False, file)


def make_palette(draw, grey, colour, alpha, opaque) -> Picture:
  """16 colours, of which some may be transparent."""
  form = draw(st.sampled_from(["PNG", "GIF", "BMP", "TIFF"]))
  index, colours = grey % 16, np.resize(colour.reshape(-1, 3), (16, 3))
  colours[:2] = [[1, 2, 3], [200, 0, 9]]  # GIF calls a palette of greys grey.
  image = PIL.Image.fromarray(index, "P")
  image.putpalette(colours.reshape(-1).tolist())
  alphas, options = np.full(16, 255), {}
  if form in ("PNG", "GIF") and draw(st.booleans()):
    some = draw(st.integers(0, 15))
    alphas[some], options = 0, {"transparency": some}
  elif form == "PNG" and draw(st.booleans()):
    alphas = np.resize(alpha.reshape(-1), 16)
    options = {"transparency": bytes(alphas.tolist())}
  shown = colours[index].astype(float)
  return Picture(shown, alphas[index] / 255, False, saved(image, form, **options))


def make_named_transparent(draw, grey, colour, alpha, opaque) -> Picture:
  """One grey, or one colour, of a PNG counts as none."""
  if draw(st.booleans()):
    image, options = PIL.Image.fromarray(grey), {"transparency": int(grey[0, 0])}
    shown, seen = threefold(grey), grey != grey[0, 0]
  else:
    first = tuple(colour[0, 0].tolist())
    image, options = PIL.Image.fromarray(colour), {"transparency": first}
    shown, seen = colour.astype(float), (colour != colour[0, 0]).any(axis=-1)
  file = saved(image, "PNG", **options)
  return Picture(shown, seen.astype(float), image.mode == "L", file)


def make_few_bits(draw, grey, colour, alpha, opaque) -> Picture:
  """A PNG of grey numbers of 1, 2 or 4 bits, one of which may be transparent."""
  bits = draw(st.sampled_from([1, 2, 4]))
  numbers = grey >> 8 - bits
  spread = np.unpackbits(numbers[..., None], axis=-1)[..., 8 - bits :]
  packed = np.packbits(spread.reshape(HEIGHT, -1), axis=1)
  rows = b"".join(b"\0" + row.tobytes() for row in packed)
  seen, chunks = np.ones_like(grey, bool), []
  if draw(st.booleans()):
    seen = numbers != numbers[0, 0]
    chunks = [(b"tRNS", struct.pack(">H", numbers[0, 0]))]
  file = png_of(HEIGHT, WIDTH, bits, 0, rows, *chunks)
  shown = threefold(numbers * 255.0 / (2**bits - 1))
  return Picture(shown, seen.astype(float), True, file)


def make_sixteen_bits_of_colour(draw, grey, colour, alpha, opaque) -> Picture:
  rows = b"".join(
    b"\0" + (row * 257).astype(">u2").tobytes() for row in colour.astype(int)
  )
  file = png_of(HEIGHT, WIDTH, 16, 2, rows)
  return Picture(colour.astype(float), opaque, False, file)


def make_ink(draw, grey, colour, alpha, opaque) -> Picture:
  ink = np.dstack([colour, grey])
  file = saved(PIL.Image.fromarray(ink, "CMYK"), "TIFF")
  shown = (255.0 - colour) * (255.0 - grey[..., None]) / 255
  return Picture(shown, opaque, False, file, 2)


def make_luminance(draw, grey, colour, alpha, opaque) -> Picture:
  file = saved(PIL.Image.fromarray(colour, "YCbCr"), "TIFF")
  y, blue, red = np.moveaxis(colour.astype(float), -1, 0)
  blue, red = blue - 128, red - 128
  parts = [y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue]
  return Picture(np.clip(np.stack(parts, -1), 0, 255), opaque, False, file, 2)


def make_turned(draw, grey, colour, alpha, opaque) -> Picture:
  """An orientation tag, or bytes in its place that mean nothing."""
  form = draw(st.sampled_from(["PNG", "TIFF", "WEBP"]))
  exif: PIL.Image.Exif | bytes = PIL.Image.Exif()
  orientation = draw(st.integers(0, 9))
  exif[0x0112] = orientation
  if form == "PNG" and draw(st.booleans()):
    exif = b"Exif\0\0" + draw(st.sampled_from([b"noise", b"", b"II*\0\xff\xff\xff\xff"]))
    orientation = 1
  turn = orientation if 1 <= orientation <= 8 else 1
  image = PIL.Image.fromarray(stored_for(np.dstack([colour, alpha]), turn))
  options = {"lossless": True, "exact": True} if form == "WEBP" else {}
  file = saved(image, form, exif=exif, **options)
  return Picture(colour.astype(float), alpha / 255, False, file)


def make_profiled(draw, grey, colour, alpha, opaque) -> Picture:
  """A colour profile that swaps two channels, one that is sRGB's, or noise."""
  form = draw(st.sampled_from(["PNG", "TIFF", "WEBP"]))
  profile, stored = draw(
    st.sampled_from(
      [
        (swapped_profile(), colour[..., ::-1]),
        (srgb_profile(), colour),
        (b"no profile", colour),
      ]
    )
  )
  with_alpha = draw(st.booleans())
  image = PIL.Image.fromarray(np.dstack([stored, alpha] if with_alpha else [stored]))
  options = {"lossless": True, "exact": True} if form == "WEBP" else {}
  if form == "PNG" and not with_alpha and draw(st.booleans()):
    image = PIL.Image.fromarray(
      np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(grey.shape), "P"
    )
    image.putpalette(stored.reshape(-1).tolist())
  elif form == "PNG" and not with_alpha and draw(st.booleans()):
    options = {"transparency": tuple(stored[0, 0].tolist())}
  seen = opaque
  if "transparency" in options:
    seen = (colour != colour[0, 0]).any(axis=-1).astype(float)
  if with_alpha:
    seen = alpha / 255
  file = saved(image, form, icc_profile=profile, **options)
  return Picture(colour.astype(float), seen, False, file, 2)


def make_profiled_grey(draw, grey, colour, alpha, opaque) -> Picture:
  """A gamma of its own, or a profile of colours, which says nothing of greys."""
  light = (grey / 255) ** 1.8
  curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
  profile, shown = draw(
    st.sampled_from([(gamma_grey_profile(), 255 * curve), (swapped_profile(), grey)])
  )
  form = draw(st.sampled_from(["PNG", "TIFF"]))
  image, seen = PIL.Image.fromarray(grey), opaque
  if draw(st.booleans()):
    image, seen = PIL.Image.fromarray(np.dstack([grey, alpha]), "LA"), alpha / 255
  file = saved(image, form, icc_profile=profile)
  return Picture(threefold(shown), seen, True, file, 2)


def make_several(draw, grey, colour, alpha, opaque) -> Picture:
  """The first of several frames or pages."""
  form = draw(st.sampled_from(["PNG", "TIFF", "WEBP"]))
  first, other = PIL.Image.fromarray(colour), PIL.Image.fromarray(255 - colour)
  options = {"lossless": True} if form == "WEBP" else {}
  file = saved(first, form, save_all=True, append_images=[other, other], **options)
  return Picture(colour.astype(float), opaque, False, file)


def make_gamma(draw, grey, colour, alpha, opaque) -> Picture:
  """What most programs write, which changes nothing."""
  info = PIL.PngImagePlugin.PngInfo()
  info.add(b"gAMA", struct.pack(">I", 45455))
  info.add_text("Title", "of the ünknown")
  file = saved(PIL.Image.fromarray(colour), "PNG", pnginfo=info, dpi=(1, 9))
  return Picture(colour.astype(float), opaque, False, file)


MAKERS: dict[str, Callable[..., Picture]] = {
  name: make for name, make in globals().items() if name.startswith("make_")
}


def text(folder: pathlib.Path) -> pathlib.Path:
  path = folder / "Thumbs.db"
  path.write_bytes(b"\xd0\xcf\x11\xe0 no image")
  return path


def nothing(folder: pathlib.Path) -> pathlib.Path:
  path = folder / "empty.png"
  path.write_bytes(b"")
  return path


def below(folder: pathlib.Path) -> pathlib.Path:
  (folder / "below").mkdir()
  return folder / "below"


def dangling(folder: pathlib.Path) -> pathlib.Path:
  (folder / "link.png").symlink_to("gone.png")
  return folder / "link.png"


def loop(folder: pathlib.Path) -> pathlib.Path:
  (folder / "loop.png").symlink_to("loop.png")
  return folder / "loop.png"


def pipe(folder: pathlib.Path) -> pathlib.Path:
  os.mkfifo(folder / "pipe.png")
  return folder / "pipe.png"


def dangling_class(folder: pathlib.Path) -> pathlib.Path:
  (folder.parent / "gone").symlink_to("nowhere")
  return folder.parent / "gone"


def larger(folder: pathlib.Path) -> pathlib.Path:
  path = folder / "\U0010ffff.bmp"  # Behind all others.
  path.write_bytes(saved(PIL.Image.new("L", (WIDTH + 1, HEIGHT)), "BMP"))
  return path


def cut(folder: pathlib.Path) -> pathlib.Path:
  path = folder / "~cut.png"
  noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
  path.write_bytes(saved(PIL.Image.fromarray(noise), "PNG")[:-40])
  return path


def deep(mode: str, form: str) -> Callable[[pathlib.Path], pathlib.Path]:
  def make(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "deep.x"
    path.write_bytes(saved(PIL.Image.new(mode, (WIDTH, HEIGHT)), form))
    return path

  return make


HARMS = [
  *(text, nothing, below, dangling, loop, pipe, dangling_class, larger, cut),
  *(deep("I;16", "PNG"), deep("I;16", "TIFF"), deep("I", "TIFF"), deep("F", "TIFF")),
  *(deep("LAB", "TIFF"),),
]


@dataclasses.dataclass
class Case:
  """A folder.

  Attributes:
    files: (class, name) to a picture, by split.
    background: for transparent parts.
    linked: classes, and files, that are links to elsewhere.
    harm: puts something in a class's folder that is no image.
    harmed: which of the classes, and which split.
  """

  files: dict[str, dict[tuple[str, str], Picture]]
  background: str
  linked: list[bool]
  harm: Callable[[pathlib.Path], pathlib.Path] | None
  harmed: str


@st.composite
def cases(draw) -> Case:
  classes = draw(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=3, unique=True))
  files = {}
  for split in ("train", "test"):
    names = [
      (label, name)
      for label in classes
      for name in draw(
        st.lists(
          st.sampled_from(NAMES),
          # Classes may be missing in test, not in train.
          min_size=1 if split == "train" or label == classes[0] else 0,
          max_size=2,
          unique=True,
        )
      )
    ]
    files[split] = {name: draw(pictures()) for name in names}
  return Case(
    files,
    draw(st.sampled_from(sorted(BACKGROUNDS))),
    draw(st.lists(st.booleans(), min_size=2, max_size=2)),
    draw(st.sampled_from(HARMS)) if draw(st.integers(0, 2)) == 0 else None,
    draw(st.sampled_from(["train", "test"])),
  )


def write(folder: pathlib.Path, case: Case) -> None:
  """The files, and what is to be passed over."""
  links = folder / "elsewhere"
  links.mkdir()
  for split, files in case.files.items():
    home = folder / "mine" / split
    home.mkdir(parents=True)
    (home / "README.txt").write_text("not an image, and not in a class")
    (home / ".git").mkdir()
    (home / "an empty class").mkdir()
    for number, ((label, name), picture) in enumerate(files.items()):
      own = home / label
      if not own.exists() and case.linked[0]:
        own.symlink_to(links / f"{split}{number}")
        (links / f"{split}{number}").mkdir()
      own.mkdir(exist_ok=True)
      (own / ".DS_Store").write_bytes(b"Bud1")
      path = links / f"{split}{number}.x" if case.linked[1] else own / name
      path.write_bytes(picture.file)
      if case.linked[1]:
        (own / name).symlink_to(path)


def in_bytes(names: tuple[str, str]) -> list[bytes]:
  """By what files are in order, whatever the locale."""
  return [os.fsencode(name) for name in names]


def as_text(name: bytes) -> str:
  """What can be written: bytes that are no letters as their numbers."""
  try:
    return name.decode()
  except UnicodeDecodeError as error:
    start, end = error.start, error.end
    return name[:start].decode() + f"\\x{name[start]:02x}" + as_text(name[end:])


def check(case: Case) -> None:
  with fuzz.scratch() as folder:
    write(folder, case)
    root = folder / "mine"
    if case.harm:
      label = sorted(case.files[case.harmed])[-1][0]
      bad = case.harm(root / case.harmed / label)
      with pytest.raises(DataError) as caught:
        load_dataset("folder", data_dir=str(root), background=case.background)
      fuzz.assert_one_line(caught.value, "data_dir: ", bad.name)
      return
    loaded = load_dataset("folder", data_dir=str(root), background=case.background)
  colour = BACKGROUNDS[case.background]
  every = [picture for files in case.files.values() for picture in files.values()]
  channels = 1 if all(picture.grey_over(colour) for picture in every) else 3
  written = [
    as_text(os.fsencode(name))
    for name in sorted({label for label, _ in case.files["train"]}, key=os.fsencode)
  ]
  assert loaded.class_names == tuple(written)
  for split, files in case.files.items():
    images, labels = (getattr(loaded, f"{split}_{x}") for x in ("images", "labels"))
    sources = getattr(loaded, f"{split}_sources")
    assert images.shape == (len(files), HEIGHT, WIDTH, channels)
    for row, (label, name) in enumerate(sorted(files, key=in_bytes)):
      picture = files[label, name]
      expected = picture.over(colour)[..., :channels]
      difference = np.abs(images[row] - expected).max()
      assert difference <= picture.error, (difference, label, name)
      source = as_text(os.fsencode(f"{split}/{label}/{name}"))
      assert sources[row] == source and source.split("/")[1] == written[labels[row]]


@fuzz.quick_and_all(20)
def test_folders_are_shown_as_they_were_made_or_refused_in_a_line(count) -> None:
  fuzz.check(cases(), check, count)

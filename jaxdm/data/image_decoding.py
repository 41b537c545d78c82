"""Pixels of an image file as a viewer shows them."""

import io
import warnings

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageCms
import PIL.ImageColor
import PIL.ImageFile

from jaxdm.data.dataset import DataError
from jaxdm.data.place import Place

_GREY = ("1", "L", "LA", "La")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_STEPS_OF_FEW_BITS = {"L;2": 85, "L;4": 17}
# What undoes each value of the tag.
_TURNS = {
  2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
  3: PIL.Image.Transpose.ROTATE_180,
  4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
  5: PIL.Image.Transpose.TRANSPOSE,
  6: PIL.Image.Transpose.ROTATE_270,
  7: PIL.Image.Transpose.TRANSVERSE,
  8: PIL.Image.Transpose.ROTATE_90,
}


def parse_colour(text: str) -> tuple[int, int, int]:
  """Red, green and blue of a colour such as 'white', '#808080' or 'rgb(0, 0, 0)'.

  Raises:
    DataError: if Pillow does not know the colour.
  """
  try:
    red, green, blue = PIL.ImageColor.getrgb(text)[:3]
  except ValueError as error:
    raise DataError(
      "background", f"must be a colour such as white, black or #808080, got {text!r}"
    ) from error
  return min(red, 255), min(green, 255), min(blue, 255)


def decode(path: Place, background: tuple[int, int, int]) -> np.ndarray:
  """A file's first image, upright and opaque: uint8[h, w] if it is grey, else [h, w, 3].

  Orientation tags are followed, colour profiles are converted to sRGB, and palettes are
  looked up. Tags and profiles that are damaged are passed over.

  Args:
    path: of the file.
    background: shown where the image is transparent.

  Raises:
    Exception: of many kinds, if Pillow cannot read it, or a kind of pixels has no one way
      to be shown.
  """
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Pillow's, of tags that are damaged.
    with path.open("rb") as file, PIL.Image.open(file) as file_image:
      image = _upright(_load(file_image))
      if image.mode not in (*_GREY, *_COLOUR):
        raise ValueError(f"pixels of kind {image.mode}, not of 8 bits a channel")
      is_grey = image.mode in _GREY
      layer, alpha = image, None
      if image.mode in _ALPHA or "transparency" in image.info:
        layer = image.convert("RGBA")
        alpha = layer.getchannel("A")
      colours = _in_srgb(layer, "L" if is_grey else "RGB", image.info.get("icc_profile"))
      if alpha is not None:
        ground = PIL.Image.new("RGB", image.size, background)
        colours = PIL.Image.composite(colours.convert("RGB"), ground, alpha)
        is_grey = is_grey and len(set(background)) == 1
      return np.asarray(colours.convert("L" if is_grey else "RGB"))


def opaque(pixels: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
  """Images uint8[..., 4] over a background, as uint8[..., 3]."""
  alpha, ground = pixels[..., 3:].astype(np.float32) / 255, np.array(background)
  colours = pixels[..., :3] * alpha + ground * (1 - alpha)
  return np.asarray(np.round(colours)).astype(np.uint8)


def _load(image: PIL.ImageFile.ImageFile) -> PIL.ImageFile.ImageFile:
  """The image with its pixels, and in their units the grey that is transparent."""
  kind = str(image.tile[0][3]) if image.tile else ""
  image.load()
  # Pillow brings grey values of few bits to 8, but not the one that is transparent.
  step = _STEPS_OF_FEW_BITS.get(kind, 1)
  if step > 1 and image.info.get("transparency", 256) <= 255 // step:
    image.info["transparency"] *= step
  return image


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
  """The image as its orientation tag says."""
  try:
    orientation = image.getexif().get(PIL.ExifTags.Base.Orientation, 1)
  except Exception:  # Pillow raises many kinds on tags that are damaged.
    return image
  turn = _TURNS.get(orientation)
  return image if turn is None else image.transpose(turn)


def _in_srgb(image: PIL.Image.Image, mode: str, profile: bytes | None) -> PIL.Image.Image:
  """The image in a mode, less its alpha, in sRGB where it has a usable other profile."""
  plain = image if image.mode == "CMYK" else image.convert(mode)
  if not profile:
    return plain
  try:
    own = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
    srgb = PIL.ImageCms.createProfile("sRGB")
    in_srgb = PIL.ImageCms.profileToProfile(plain, own, srgb, outputMode="RGB")
  except (PIL.ImageCms.PyCMSError, OSError):
    return plain  # As viewers do with a profile that is damaged.
  return plain if in_srgb is None else in_srgb

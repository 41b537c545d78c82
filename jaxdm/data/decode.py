"""Pixels of an image file as a viewer shows them."""

import io

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageColor
import PIL.ImageOps
from etils import epath

_GREY = ("1", "L", "LA", "La")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")


def parse_colour(text: str) -> tuple[int, int, int]:
  """Red, green and blue of a colour such as 'white', '#808080' or 'rgb(0, 0, 0)'.

  Raises:
    ValueError: if it is none that Pillow knows.
  """
  try:
    red, green, blue = PIL.ImageColor.getrgb(text)[:3]
  except ValueError as error:
    raise ValueError(
      f"background must be a colour such as white, black or #808080, got {text!r}"
    ) from error
  return red, green, blue


def decode(path: epath.Path, background: tuple[int, int, int]) -> np.ndarray:
  """A file's first image, upright and opaque: uint8[h, w] if it is grey, else [h, w, 3].

  Orientation tags are followed, colour profiles are converted to sRGB, and palettes are
  looked up.

  Args:
    path: of the file.
    background: shown where the image is transparent.

  Raises:
    Exception: of many kinds, if Pillow cannot read it, or a kind of pixels has no one way
      to be shown.
  """
  with path.open("rb") as file, PIL.Image.open(file) as opened:
    opened.load()
    image = PIL.ImageOps.exif_transpose(opened)
    if image.mode not in (*_GREY, *_COLOUR):
      raise ValueError(f"pixels of kind {image.mode}, not of 8 bits a channel")
    is_grey = image.mode in _GREY
    image = _in_srgb(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
      layer = image.convert("RGBA")
      ground = PIL.Image.new("RGBA", layer.size, (*background, 255))
      image = PIL.Image.alpha_composite(ground, layer).convert("RGB")
      is_grey = is_grey and len(set(background)) == 1
    return np.asarray(image.convert("L" if is_grey else "RGB"))


def opaque(pixels: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
  """Images uint8[..., 4] over a background, as uint8[..., 3]."""
  alpha, ground = pixels[..., 3:].astype(np.float32) / 255, np.array(background)
  shown = pixels[..., :3] * alpha + ground * (1 - alpha)
  return np.asarray(np.round(shown)).astype(np.uint8)


def _in_srgb(image: PIL.Image.Image) -> PIL.Image.Image:
  """The image in sRGB where it has another colour profile that can be used."""
  profile = image.info.get("icc_profile")
  if not profile or image.mode not in ("RGB", "CMYK"):
    return image
  try:
    own = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
    srgb = PIL.ImageCms.createProfile("sRGB")
    converted = PIL.ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")
  except (PIL.ImageCms.PyCMSError, OSError):
    return image  # As viewers do with a profile that is damaged.
  return image if converted is None else converted

"""How many models a device trains side by side, and by which convolution: timed once.

Nothing here changes what a model is but for rounding. A choice is remembered, so that all
runs with the same devices, network, input size and versions make the same one.
"""

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from jaxdm import devices, identity
from jaxdm.errors import UserError
from jaxdm.storage import atomic_io, checksummed_json
from jaxdm.training import conv
from jaxdm.training.config import TrainConfig
from jaxdm.training.recipe import Recipe
from jaxdm.training.speed import Speed

# Widths are numbers of models side by side. After so many seconds none is begun.
_SECONDS = 60.0
# Each width is so many times the one before.
_FACTOR = 4
# A call trains so many models at least, wanted or not.
MOST_WIDTH = 1024
# A wider candidate must take less than this share of the time.
_GAIN = 0.95
# Numbers that the operations of a step put out for all models of a device, where it was
# found to be busy: an H200 (2026-11-26) trained ResNet-9 of width 8 on 8x8 images 1.6
# times as fast with 1,024 models side by side as with 128, and of width 64 on 32x32
# images, batch size 512, half as fast with 2 models as with 1.
_BUSY = 2.0**29

# What a step's time depends on, of a training configuration.
_TIMED = (
  "width",
  "batch_size",
  "muon_rate",
  "flip",
  "translate_pixels",
  "cutout_pixels",
  "compute_dtype",
)
# Models side by side on CPU, of networks with convolutions and of others.
_CPU_WIDTH = {True: 1, False: 32}

_log = logging.getLogger("jaxdm")


class Choice(NamedTuple):
  """How models are trained side by side.

  Attributes:
    vmap_width: models that one device trains in parallel.
    conv_backend: of their convolutions.
  """

  vmap_width: int
  conv_backend: conv.Backend


# Of a step of one model; raises JaxRuntimeError or UserError where that is impossible.
Seconds = Callable[[Choice], float]


def choose(
  speed: Speed,
  config: TrainConfig,
  recipe: Recipe,
  input_shape: tuple[int, ...],
  num_classes: int,
  seconds: Seconds,
  folder: epath.PathLike | None,
) -> Choice:
  """How many models a device trains in parallel, and by which convolution.

  Args:
    speed: the requested settings; where they are None, the device has defaults.
    config: how each model is trained.
    recipe: of that, with convolutions by XLA.
    input_shape: of one input.
    num_classes: k.
    seconds: measures a candidate.
    folder: where the processes of one job agree; None: the user's cache.
  """
  convolves, on_cpu = recipe.network.convolves, jax.default_backend() == "cpu"
  width = speed.vmap_width or (_CPU_WIDTH[convolves] if on_cpu else "auto")
  backend = speed.conv_backend or ("cpu" if on_cpu else "auto")
  backends: tuple[conv.Backend, ...] = ("lax",)
  if convolves and recipe.network.identity is None:  # Others have their own.
    backends = ("im2col", "lax") if backend == "auto" else (backend,)
  most = speed.chunk or (MOST_WIDTH if width == "auto" else width)
  if width != "auto" and len(backends) == 1:
    return Choice(min(width, most), backends[0])

  step = {
    "train": {name: getattr(config, name) for name in _TIMED},
    "network": recipe.network.identity,
    "input_shape": list(input_shape),
    "num_classes": num_classes,
    "devices": devices.describe(),
    "made_by": identity.made_by(),
  }

  def measure() -> Choice:
    if width != "auto":
      return fastest(seconds, backends, min(width, most), most=None)
    first = first_width(recipe, input_shape)
    return fastest(seconds, backends, min(first, most), most=most)

  return remember((step, (width, backends, most)), measure, folder)


def first_width(recipe: Recipe, input_shape: tuple[int, ...]) -> int:
  """A power of 4: about the models that keep an accelerator busy.

  Args:
    recipe: of the models.
    input_shape: of one input.
  """
  operations = recipe.network.operations(input_shape, recipe.batch_size)
  numbers = sum(v.aval.size for operation in operations for v in operation.outvars)
  steps = round(math.log(max(1.0, _BUSY / numbers), _FACTOR))
  return int(min(_FACTOR**steps, MOST_WIDTH))


def fastest(
  seconds: Seconds,
  backends: Sequence[conv.Backend],
  width: int,
  *,
  most: int | None,
) -> Choice:
  """The fastest of the candidates that are begun within a minute.

  All backends are tried at the first width; the better one at widths that grow, or else
  shrink, as long as each is faster than the one before.

  Args:
    seconds: measures a candidate.
    backends: to choose from.
    width: to begin with.
    most: the largest width; None: no other width is tried.

  Raises:
    UserError: if the memory suffices for none.
    JaxRuntimeError: if none can run, for another reason.
  """
  start, seconds_of = time.monotonic(), dict[Choice, float]()
  errors: list[Exception] = []

  def try_candidate(candidate: Choice) -> float:
    is_late = time.monotonic() - start > _SECONDS
    is_late = is_late and min(seconds_of.values(), default=math.inf) < math.inf
    seconds_of[candidate] = math.inf
    if not is_late:
      try:
        seconds_of[candidate] = seconds(candidate)
      except (UserError, jax.errors.JaxRuntimeError) as error:
        errors.append(error)
    return seconds_of[candidate]

  best = min((Choice(width, backend) for backend in backends), key=try_candidate)
  ways = (_wider(width, most), _narrower(width)) if most else ()
  for way in ways:
    first = best
    for other in way:
      candidate = best._replace(vmap_width=other)
      share = _GAIN if other > width else 1.0
      too_large = other < width and math.isinf(seconds_of[best])
      if not (try_candidate(candidate) < share * seconds_of[best] or too_large):
        break
      best = candidate
    if best != first:
      break
  if math.isinf(seconds_of[best]):
    for error in errors:
      if not isinstance(error, UserError) and "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    raise UserError(
      "width",
      "or batch_size must be smaller: the device's memory does not hold one model "
      "at a time",
    ) from errors[0]
  timings = (
    f"{c.conv_backend} {c.vmap_width}: {1e3 * s:.3g}"
    for c, s in seconds_of.items()
    if s < math.inf
  )
  _log.info(
    "vmap_width=%d and conv_backend=%s are fastest (ms a model and step: %s; %.0f s)",
    *best,
    ", ".join(timings),
    time.monotonic() - start,
  )
  return best


def _wider(width: int, most: int) -> Iterator[int]:
  """The widths above, ascending."""
  while width * _FACTOR <= most:
    width *= _FACTOR
    yield width


def _narrower(width: int) -> Iterator[int]:
  """The widths below, descending."""
  while width > 1:
    width = max(1, width // _FACTOR)
    yield width


def remember(
  depends_on: Any, choose: Callable[[], Choice], folder: epath.PathLike | None
) -> Choice:
  """The choice that a folder, or else the user's cache, holds; made if neither does.

  Processes that share the folder get the choice that was written first.

  Args:
    depends_on: all that decides which choice is good; see `identity.digest`.
    choose: makes the choice.
    folder: of the processes of one job; None: only the cache.
  """
  name = f"{identity.digest(depends_on)}.json"
  places = [atomic_io.as_path(cache_folder())]
  if folder is not None:
    places.insert(0, atomic_io.as_path(folder))
  choice = next((c for place in places if (c := _read(place / name))), None) or choose()
  for place in reversed(places):
    try:
      atomic_io.make_folder(place)
      checksummed_json.write(place / name, choice._asdict(), new=True)
    except OSError:
      if len(places) > 1 and place == places[0]:
        raise
      continue  # A cache that cannot be written; the choice is made again next time.
    choice = _read(place / name) or choice
  return choice


def cache_folder() -> str:
  """Where choices are kept between runs."""
  home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  return os.path.join(home, "jaxdm", "tuning")


def _read(path: epath.Path) -> Choice | None:
  """A choice that was written; None if there is none, or no whole one."""
  try:
    return Choice(**checksummed_json.read(path)) if path.exists() else None
  except (OSError, checksummed_json.UnreadableError):
    return None
  except (checksummed_json.DamageError, TypeError):
    with contextlib.suppress(OSError):  # In a folder that cannot be written, or a folder.
      path.unlink(missing_ok=True)
    return None

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdm.errors import UserError
from jaxdm.training import augment, fleet
from jaxdm.training.config import TrainConfig


def test_flip_mirrors_the_width_axis_of_about_half_the_images() -> None:
  images = jnp.arange(200 * 2 * 3 * 2, dtype=jnp.float32).reshape(200, 2, 3, 2)
  flipped = np.asarray(augment.flip(jax.random.key(0), images))
  mirrored = np.asarray(images)[:, :, ::-1, :]
  is_mirrored = (flipped == mirrored).all(axis=(1, 2, 3))
  is_same = (flipped == np.asarray(images)).all(axis=(1, 2, 3))
  assert (is_mirrored ^ is_same).all()
  assert 60 < is_mirrored.sum() < 140


def test_translate_is_a_shift_with_repeated_border() -> None:
  images = jnp.arange(25, dtype=jnp.float32).reshape(1, 5, 5, 1).repeat(300, axis=0)
  moved = np.asarray(augment.translate(jax.random.key(1), images, 2))[..., 0]
  padded = np.pad(np.arange(25).reshape(5, 5), 2, mode="edge")
  windows = {(i, j): padded[i : i + 5, j : j + 5] for i in range(5) for j in range(5)}
  seen = set()
  for image in moved:
    match = [shift for shift, window in windows.items() if (window == image).all()]
    assert match
    seen.update(match)
  assert len(seen) == 25


def test_cutout_erases_one_square_anywhere() -> None:
  erased = (
    np.asarray(augment.cutout(jax.random.key(2), jnp.ones((400, 6, 6, 1)), 3))[..., 0]
    == 0
  )
  assert (erased.sum(axis=(1, 2)) == 9).all()
  corners = {(int(m.any(1).argmax()), int(m.any(0).argmax())) for m in erased}
  assert len(corners) == 16


def test_nothing_asked_changes_nothing() -> None:
  images = jax.random.normal(jax.random.key(0), (4, 5, 5, 3))
  same = augment.augment(
    jax.random.key(1), images, use_flip=False, translate_pixels=0, cutout_pixels=0
  )
  np.testing.assert_array_equal(same, images)


def test_a_square_as_large_as_the_image_is_refused(tiny_images) -> None:
  images, _ = tiny_images
  side = images.shape[1]
  config = TrainConfig(cutout_pixels=side)
  with pytest.raises(UserError, match=f"cutout_pixels must be smaller .* {side} pixels"):
    fleet.Fleet(config, images, 2)

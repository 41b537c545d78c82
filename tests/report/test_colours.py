"""Curves of different methods have different colours."""

import matplotlib.colors

from jaxdm.attribution import registry


def test_every_method_has_a_colour_of_its_own() -> None:
  shades = {matplotlib.colors.to_rgb(registry.colour(n)) for n in registry.METHODS}
  assert len(shades) == len(registry.METHODS)
  assert registry.colour("scores of a file") is None

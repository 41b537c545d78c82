import matplotlib.colors

from jaxdm.attribution import registry
from jaxdm.report import colours


def test_every_method_has_a_colour_of_its_own() -> None:
  assert colours.METHODS.keys() == registry.METHODS.keys()
  shades = {matplotlib.colors.to_rgb(colour) for colour in colours.METHODS.values()}
  assert len(shades) == len(colours.METHODS)

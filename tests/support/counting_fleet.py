"""A fleet that says how much it has trained."""

from jaxdm.training import fleet


class CountingFleet(fleet.Fleet):
  """Counts the models that it trains."""

  trained = 0

  def train(self, sets, keys):
    self.trained += len(sets.counts)
    return super().train(sets, keys)

"""A Flax module on feature vectors: 5,000 models, datamodels, and 20 searches.

python docs/examples/flax_features.py
"""

import time

import numpy as np
from flax import linen as nn

import jaxdm


class Head(nn.Module):
  """A small network on somebody's embeddings."""

  num_classes: int

  @nn.compact
  def __call__(self, vectors):
    return nn.Dense(self.num_classes)(nn.relu(nn.Dense(16)(vectors)))


def make_dataset(num_train=2000, num_targets=100, features=64, num_classes=4):
  """Clusters that overlap, in place of embeddings."""
  rng = np.random.default_rng(0)
  centres = 0.25 * rng.normal(size=(num_classes, features))
  arrays = {}
  for split, count in (("train", num_train), ("test", num_targets)):
    labels = np.arange(count, dtype=np.int32) % num_classes
    vectors = centres[labels] + rng.normal(size=(count, features))
    arrays |= {f"{split}_images": vectors.astype(np.float32), f"{split}_labels": labels}
  names = tuple(f"class {k}" for k in range(num_classes))
  return jaxdm.Dataset(name="clusters", class_names=names, **arrays)


CONFIG = jaxdm.TrainConfig(
  epochs=4, batch_size=100, peak_learning_rate=0.1, label_smoothing=0.0
)


def main(num_models=5000, num_searched=20, dataset=None, config=CONFIG):
  """The whole chain; prints how long each part takes."""
  dataset = dataset or make_dataset()
  trainer = jaxdm.Trainer(dataset, config, network=Head(dataset.num_classes))
  labels, clock = dataset.train_labels, [time.perf_counter()]

  def tell(what):
    clock.append(time.perf_counter())
    print(f"{what}: {clock[-1] - clock[-2]:.1f} s")

  masks = jaxdm.random_subsets(num_models, len(labels), alpha=0.5, seed=0)
  margins = trainer(masks, labels, np.arange(num_models))
  tell(f"{num_models:,} models")
  held_out = num_models // 10
  models = jaxdm.fit_datamodels(masks[held_out:], margins[held_out:])
  tell("datamodels")
  quality = models.evaluate(masks[:held_out], margins[:held_out])
  print(f"LDS {quality.lds.estimate:.2f}")
  search = jaxdm.SearchConfig(num_targets=num_searched, max_share=0.2)
  found = jaxdm.find_removals(models, trainer, labels, dataset.test_labels, config=search)
  tell(f"searches of {num_searched} targets")
  [summary] = jaxdm.summarise(found).values()
  print(f"flipped {summary['share_flipped']:.0%}, median k {summary['median_k'][0]}")
  return found


if __name__ == "__main__":
  jaxdm.use_all_devices()
  main()

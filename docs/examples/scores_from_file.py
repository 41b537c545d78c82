"""Anybody's scores: how good they are, and how few of their removals flip a target.

python docs/examples/scores_from_file.py
"""

import pathlib
import tempfile

import numpy as np

import jaxdm


def main(folder):
  """Writes scores as another package would, and judges them beside random ones."""
  dataset = jaxdm.load_dataset("fashion").take(["T-shirt", "shirt"], 40, 20)
  config = jaxdm.TrainConfig(
    epochs=20, batch_size=20, flip=False, translate_pixels=0, cutout_pixels=0
  )
  trainer = jaxdm.Trainer(dataset.downscaled(4), config, network="linear")
  made = jaxdm.attribution_scores(trainer, ["influence"], num_models=4)
  path = pathlib.Path(folder) / "scores.npy"
  np.save(path, made["influence"])  # float[targets, training examples]

  labels, target_labels = dataset.train_labels, dataset.test_labels
  scores = {"theirs": np.load(path), "random": np.random.default_rng(0).random((40, 80))}
  masks = jaxdm.random_subsets(num_models=200, num_train=80, alpha=0.5, seed=1)
  margins = trainer(masks, labels, np.arange(200))
  for name, one in scores.items():
    lds = jaxdm.evaluate_scores(one, masks, margins).lds
    print(f"{name}: LDS {lds.estimate:.2f} [{lds.low:.2f}, {lds.high:.2f}]")
  config = jaxdm.SearchConfig(num_targets=6, max_share=0.5, verify_seeds=8)
  found = jaxdm.find_removals(scores, trainer, labels, target_labels, config=config)
  for name, one in jaxdm.summarise(found).items():
    print(f"{name}: {one['share_flipped']:.0%} flipped, median k {one['median_k'][0]}")
  return scores, masks, margins, found


if __name__ == "__main__":
  jaxdm.use_all_devices()
  with tempfile.TemporaryDirectory() as folder:
    main(folder)

"""What training costs, counted and not measured."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import presets
from jaxdm import resnet9, train, training_sets


class Size(NamedTuple):
  """Of a preset's problem, known without loading its data.

  Attributes:
    num_train: n.
    num_targets: t.
    image_shape: (h, w, c), as trained on.
    num_classes: k.
  """

  num_train: int
  num_targets: int
  image_shape: tuple[int, int, int]
  num_classes: int


_FASHION = Size(200, 120, (7, 7, 1), 2)
SIZES = {
  "fashion": _FASHION,
  "fashion-all": _FASHION,
  "cifar10-two": Size(1000, 200, (16, 16, 3), 2),
  "cifar10": Size(50_000, 10_000, (32, 32, 3), 10),
  "cifar10-fast": Size(50_000, 10_000, (32, 32, 3), 10),
}


def samples_per_model(experiment: presets.Experiment, num_train: int) -> int:
  """Images that one model on a random subset trains on, repetitions counted."""
  size = training_sets.subset_size(num_train, experiment.collect.alpha)
  steps = experiment.train.num_steps(np.array(size))
  return int(steps) * experiment.train.batch_size


def flops_per_sample(
  config: train.TrainConfig, image_shape: tuple[int, ...], num_classes: int
) -> float:
  """Operations that training on one image asks for, by the layers' own formulas.

  A convolution counts 2 * out_h * out_w * out_c * kh * kw * in_c, taps on padding
  included, however it is carried out, and its backward pass twice that, less the
  gradient for the images. Batch norm, pooling and augmentation count nothing.
  """
  net = train.network(config, num_classes, "lax")
  variables = jax.eval_shape(
    lambda: resnet9.initial_variables(net, jax.random.key(0), image_shape)
  )
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  forward = jax.make_jaxpr(lambda v, x: net.apply(v, x, False))(variables, images)
  layers = [
    2.0 * np.prod(eqn.invars[1].aval.shape[:-1]) * np.prod(eqn.outvars[0].aval.shape)
    for eqn in _equations(forward.jaxpr)
    if eqn.primitive.name == "conv_general_dilated"
  ]
  logits, features = forward.out_avals
  layers.append(2.0 * features.shape[-1] * logits.shape[-1])
  return float(3 * sum(layers) - layers[0])


def _equations(jaxpr: Any) -> list[Any]:
  """All equations of a jaxpr, those of inner functions in their place."""
  found = []
  for eqn in jaxpr.eqns:
    inner = [v.jaxpr for v in eqn.params.values() if hasattr(v, "jaxpr")]
    found += [e for j in inner for e in _equations(j)] if inner else [eqn]
  return found

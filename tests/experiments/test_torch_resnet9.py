"""The PyTorch side of the benchmarks, where PyTorch is installed."""

import json

import numpy as np
import pytest
from absl.testing import flagsaver

pytest.importorskip("torch")

from experiments.bench import accuracy
from experiments.bench.peers import torch_resnet9


@pytest.mark.slow
def test_pytorch_learns_the_tiny_problem(tiny_config, tiny_images) -> None:
  images, labels = tiny_images
  trainer = torch_resnet9.Trainer(tiny_config, images, labels, 2)
  trainer.run(60)
  assert (trainer.predict(images).argmax(axis=1) == labels).mean() > 0.9


@pytest.mark.slow
def test_bench_accuracy_compares_both(tmp_path, capsys) -> None:
  path = tmp_path / "accuracies.json"
  toy = {"train_per_class": "24", "test_per_class": "10", "width": "4", "num_base": "3"}
  toy |= {"batch_size": "8", "epochs": "2", "chunk": "2", "json": str(path)}
  with flagsaver.as_parsed(**toy):
    accuracy.main(["prog"])
  found = json.loads(path.read_text())
  assert [len(found[name]) for name in ("jaxdm", "pytorch")] == [3, 3]
  difference = np.mean(found["jaxdm"]) - np.mean(found["pytorch"])
  assert f"difference: {difference:+.2%}" in capsys.readouterr().out

"""The comparison of accuracies."""

import json

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments.bench import accuracy


@pytest.mark.slow
def test_models_in_bfloat16_are_compared(tmp_path, capsys) -> None:
  path = tmp_path / "accuracies.json"
  toy = {"train_per_class": "24", "test_per_class": "10", "width": "4", "num_base": "3"}
  toy |= {"batch_size": "8", "epochs": "2", "chunk": "2", "json": str(path)}
  with flagsaver.as_parsed(**toy, against="bfloat16"):
    accuracy.main(["prog"])
  found = json.loads(path.read_text())
  assert [len(found[name]) for name in ("jaxdm", "bfloat16")] == [3, 3]
  difference = np.mean(found["jaxdm"]) - np.mean(found["bfloat16"])
  assert f"difference: {difference:+.2%}" in capsys.readouterr().out

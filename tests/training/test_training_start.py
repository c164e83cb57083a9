"""Training that goes on from a model of ours."""

from __future__ import annotations

import pytest
import torch
import yaml

from medseg.errors import ModelError
from medseg.model import load_model
from medseg.training import train

# Steps too small to be seen, so that what training ends with is what it started from.
STILL = {"learning_rate": 1e-12, "weight_decay": 0.0, "epochs": 1, "ema_decay": 0.0}


@pytest.fixture
def first(config_file, tmp_path):
    """The folder of a trained model."""
    return train(config_file, output=tmp_path / "first", epochs=1, device="cpu", progress=False)


def continued(config_file, tmp_path, *, show=False, **changes):
    content = yaml.safe_load(config_file.read_text())
    content["network"]["checkpoint"] = "first/model"
    content["training"] |= STILL
    for section, values in changes.items():
        content[section] = content.get(section, {}) | values
    config_file.write_text(yaml.safe_dump(content))
    return train(config_file, output=tmp_path / "second", device="cpu", progress=show)


def test_training_goes_on_from_a_model_s_weights_on_another_grid(first, config_file, tmp_path):
    second = continued(config_file, tmp_path, preparation={"spacing_mm": [1.5, 1.5, 1.5]})
    before, after = (load_model(folder).network.state_dict() for folder in (first, second))
    for key, tensor in before.items():
        torch.testing.assert_close(after[key], tensor, rtol=0, atol=1e-6)
    assert "started from the model first/model" in (second / "docs/README.md").read_text()
    assert load_model(second).info.network.checkpoint is None
    # The written configuration runs from where it lies.
    again = train(tmp_path / "second/config.yaml", output=tmp_path / "again", device="cpu", progress=False)
    assert load_model(again).info.sha256 == load_model(second).info.sha256


def test_other_labels_get_a_fresh_head_and_a_note(first, config_file, tmp_path, capsys):
    labels = {"labels": [{"index": 1, "name": "left"}]}
    content = yaml.safe_load(config_file.read_text())
    content["data"]["values"] = {2: 1}
    config_file.write_text(yaml.safe_dump(content))
    second = continued(config_file, tmp_path, show=True, labels=labels)
    before, after = (load_model(folder).network.state_dict() for folder in (first, second))
    differing = [key for key, tensor in before.items() if tensor.shape != after[key].shape]
    assert differing
    assert all(tensor.shape[0] == 2 for tensor in (after[key] for key in differing))
    for key in set(before) - set(differing):
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=1e-6)
    assert "has 3 classes, the network 2; these weights are fresh" in capsys.readouterr().err


def test_model_of_other_settings_is_refused_by_name(first, config_file, tmp_path):
    with pytest.raises(ModelError, match=r"first/model: the model's network has settings .*\[4, 8\].*\[4, 8, 8\]"):
        continued(config_file, tmp_path, network={"settings": {"channels": [4, 8, 8]}, "checkpoint": "first/model"})
    assert not (tmp_path / "second/model").exists()

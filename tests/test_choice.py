"""The model that is taken where nobody names one."""

from pathlib import Path

import pytest

from medseg.choice import fitting
from medseg.config import PredictConfig
from medseg.errors import ModelError
from medseg.inputs import find_inputs
from tests.tiny import save_scan, save_tiny_model


def shipped(monkeypatch, *folders: Path) -> None:
    monkeypatch.setattr("medseg.choice.shipped_models", lambda: {folder.name: folder for folder in folders})


def test_the_only_shipped_model_that_takes_the_scan_is_chosen(tmp_path, monkeypatch):
    save_tiny_model(tmp_path / "small")
    save_tiny_model(tmp_path / "large", accepts={"field_of_view_mm": [150, 900]})
    shipped(monkeypatch, tmp_path / "small", tmp_path / "large")
    (scan,) = find_inputs([str(save_scan(tmp_path / "scan.nii.gz"))])
    assert fitting(scan, PredictConfig()).info.name == "small"
    (scan,) = find_inputs([str(save_scan(tmp_path / "scan.nii.gz", spacing_mm=(20, 20, 20)))])
    assert fitting(scan, PredictConfig()).info.name == "large"


def test_models_are_listed_with_the_reason_when_none_or_several_take_the_scan(tmp_path, monkeypatch):
    save_tiny_model(tmp_path / "one")
    save_tiny_model(tmp_path / "two", accepts={"dimensions": 2})
    shipped(monkeypatch, tmp_path / "one", tmp_path / "two")
    (scan,) = find_inputs([str(save_scan(tmp_path / "scan.nii.gz", spacing_mm=(20, 20, 20)))])
    with pytest.raises(ModelError, match=r"one takes a field of view.*two takes single images.*--model"):
        fitting(scan, PredictConfig())
    monkeypatch.setattr("medseg.choice.shipped_models", lambda: {"a": tmp_path / "one", "b": tmp_path / "one"})
    (scan,) = find_inputs([str(save_scan(tmp_path / "scan.nii.gz"))])
    with pytest.raises(ModelError, match="several models take this scan: one, one; choose one with --model"):
        fitting(scan, PredictConfig())

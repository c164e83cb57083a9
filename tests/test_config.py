import pytest

from medseg.config import Preparation, Windows, load_config, validate
from medseg.errors import ConfigError
from medseg.training_settings import TrainingSettings


def test_misspelt_setting_is_named_with_its_file(tmp_path):
    path = tmp_path / "preparation.yaml"
    path.write_text("orientaton: RAS\n")
    with pytest.raises(ConfigError, match=rf"{path.name}: orientaton: Extra inputs"):
        load_config(path, Preparation)


def test_missing_file_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"gone.yaml: cannot be read"):
        load_config(tmp_path / "gone.yaml", Preparation)


def test_text_that_is_not_yaml_is_one_line(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1, 2\nb: }")
    with pytest.raises(ConfigError, match="not YAML") as caught:
        load_config(path, Preparation)
    assert "\n" not in str(caught.value)


def test_yaml_cannot_run_code(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(f"orientation: !!python/object/apply:os.system ['touch {tmp_path}/ran']")
    with pytest.raises(ConfigError, match="not YAML"):
        load_config(path, Preparation)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("orientation", ["RA", "RLS", "RAX", "ras", "RASS"])
def test_orientation_that_does_not_name_three_axes_is_refused(orientation):
    with pytest.raises(ConfigError, match="orientation"):
        validate({"orientation": orientation}, Preparation, where="test")


@pytest.mark.parametrize("spacing", [(1, 1), (0, 1, 1), (1, -1, 1), (float("nan"), 1, 1), (float("inf"), 1, 1)])
def test_spacing_that_is_not_three_positive_numbers_is_refused(spacing):
    with pytest.raises(ConfigError, match="spacing_mm"):
        validate({"spacing_mm": spacing}, Preparation, where="test")


def test_window_of_two_thin_axes_and_context_without_a_thin_axis_are_refused():
    with pytest.raises(ConfigError, match="more than one thin axis"):
        validate({"size": (1, 8, 1)}, Windows, where="test")
    with pytest.raises(ConfigError, match="one voxel thick"):
        validate({"size": (8, 8, 8), "context": 1}, Windows, where="test")


def test_intensity_window_with_its_ends_swapped_is_refused():
    with pytest.raises(ConfigError, match="must be below"):
        validate({"intensity": {"kind": "window", "low": 300, "high": -100}}, Preparation, where="test")


def test_training_without_epochs_is_refused():
    with pytest.raises(ConfigError, match="epochs"):
        validate({"epochs": 0, "patch": (8, 8, 8)}, TrainingSettings, where="test")

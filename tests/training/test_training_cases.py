"""Case lists, splits, and what is refused before training starts."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medseg.config import TrainConfig, validate
from medseg.errors import ConfigError, GeometryError, InputError
from medseg.training.cases import find_cases, read_image, split
from medseg.training.dataset import load_cases
from medseg.training_settings import DataSettings
from tests.phantoms import affine_of
from tests.training.conftest import SHAPE, phantom, settings, write_nifti


@pytest.fixture
def config(decathlon: Path) -> TrainConfig:
    return validate(settings(decathlon), TrainConfig, where="test")


def nnunet(root: Path, decathlon: Path, channels: int) -> Path:
    """The same cases in nnU-Net's layout; channel n is the image plus n."""
    for number in range(6):
        image, labels = phantom(number)
        for channel in range(channels):
            write_nifti(root / f"imagesTr/case_{number}_{channel:04d}.nii.gz", image + channel)
        write_nifti(root / f"labelsTr/case_{number}.nii.gz", labels)
    content = {
        "channel_names": {str(n): f"c{n}" for n in range(channels)},
        "labels": {"background": 0, "a": 1, "b": 2},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def csv_of(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def edit(root: Path, change) -> None:
    content = json.loads((root / "dataset.json").read_text())
    change(content)
    (root / "dataset.json").write_text(json.dumps(content))


def test_decathlon_nnunet_and_csv_lists_give_the_same_cases(decathlon, tmp_path):
    listed = find_cases(decathlon)
    assert [case.name for case in listed] == [f"case_{n}" for n in range(6)]
    raw = find_cases(nnunet(tmp_path / "Dataset099_Balls", decathlon, channels=1))
    rows = [
        {"image": f"{decathlon.name}/imagesTr/case_{n}.nii.gz", "label": f"{decathlon.name}/labelsTr/case_{n}.nii.gz"}
        for n in range(6)
    ]
    table = find_cases(csv_of(tmp_path / "cases.csv", rows))
    for other in (raw, table):
        assert [case.name for case in other] == [case.name for case in listed]
        for one, same in zip(listed, other, strict=True):
            np.testing.assert_array_equal(read_image(one).array, read_image(same).array)


def test_channels_come_from_the_fourth_axis_from_files_and_from_semicolons_in_order(decathlon, tmp_path):
    image, _ = phantom(2)
    two = np.stack([image, image + 1])
    write_nifti(decathlon / "imagesTr/case_2.nii.gz", np.moveaxis(two, 0, -1))
    edit(decathlon, lambda content: content["modality"].update({"1": "T2"}))
    fourth_axis = find_cases(decathlon)[2]
    files = find_cases(nnunet(tmp_path / "Dataset099_Balls", decathlon, channels=2))[2]
    images = ";".join(f"Dataset099_Balls/imagesTr/case_2_000{n}.nii.gz" for n in range(2))
    row = {"image": images, "label": "Dataset099_Balls/labelsTr/case_2.nii.gz", "case": "named"}
    semicolons = find_cases(csv_of(tmp_path / "cases.csv", [row]))[0]
    assert semicolons.name == "named"
    for case in (fourth_axis, files, semicolons):
        np.testing.assert_allclose(read_image(case).array, two, rtol=1e-6)


def test_every_case_is_validated_in_exactly_one_fold(decathlon):
    cases = find_cases(decathlon)
    folds = [split(cases, DataSettings(root=decathlon, folds=4, fold=fold)) for fold in range(4)]
    assert sorted(case.name for _, kept_out in folds for case in kept_out) == [case.name for case in cases]
    assert [case.name for case in folds[1][1]] == ["case_1", "case_5"]
    assert all(set(train).isdisjoint(kept_out) and len(train) + len(kept_out) == 6 for train, kept_out in folds)


def test_named_validation_cases_are_kept_out(decathlon):
    train, kept_out = split(find_cases(decathlon), DataSettings(root=decathlon, validation=("case_4", "case_0")))
    assert [case.name for case in kept_out] == ["case_0", "case_4"]
    assert [case.name for case in train] == ["case_1", "case_2", "case_3", "case_5"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"folds": 3, "fold": 3}, "data.fold is 3, but there are folds 0 to 2"),
        ({"folds": 9, "fold": 8}, "none for validation"),
        ({"validation": tuple(f"case_{n}" for n in range(6))}, "none for training"),
        ({"validation": ("case_1", "case_7")}, "'case_7' .1 of 2 unknown."),
    ],
)
def test_split_that_cannot_be_made_is_refused(decathlon, data, message):
    with pytest.raises(ConfigError, match=message):
        split(find_cases(decathlon), DataSettings(root=decathlon, **data))


def test_missing_files_are_counted_and_the_first_is_named(decathlon):
    (decathlon / "imagesTr/case_0.nii.gz").unlink()
    (decathlon / "labelsTr/case_3.nii.gz").unlink()
    with pytest.raises(InputError, match=r"2 of 12 files are missing, first .*case_3\.nii\.gz of case case_3"):
        find_cases(decathlon)


def test_empty_training_list_is_refused(decathlon):
    edit(decathlon, lambda content: content.update(training=[]))
    with pytest.raises(InputError, match="training list is empty"):
        find_cases(decathlon)


def test_case_listed_twice_is_refused(decathlon):
    edit(decathlon, lambda content: content["training"].append(content["training"][0]))
    with pytest.raises(InputError, match="case_3 is listed more than once"):
        find_cases(decathlon)


@pytest.mark.parametrize("break_it", [shutil.rmtree, lambda root: (root / "dataset.json").write_text("{")])
def test_root_that_is_no_data_set_is_one_line(decathlon, break_it):
    break_it(decathlon)
    with pytest.raises(ConfigError, match=r"^[^\n]*Task99_Balls[^\n]*$"):
        find_cases(decathlon)


def test_csv_without_a_label_column_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="column 'label' is missing"):
        find_cases(csv_of(tmp_path / "cases.csv", [{"image": "a.nii.gz", "mask": "b.nii.gz"}]))


def test_labels_outside_the_label_set_are_refused_by_case_with_what_was_found(decathlon, config):
    labels = phantom(1)[1]
    labels[0, 0, :2] = (7, 9)
    write_nifti(decathlon / "labelsTr/case_1.nii.gz", labels)
    with pytest.raises(InputError, match=r"Case case_1: .*holds the values 7, 9, .*\(0, 1, 2\)"):
        load_cases(find_cases(decathlon), config)


def test_label_on_another_grid_than_its_image_is_refused(decathlon, config):
    write_nifti(decathlon / "labelsTr/case_4.nii.gz", phantom(4)[1], affine_of((1, 1, 1), (5, 0, 0)))
    with pytest.raises(GeometryError, match=r"Case case_4: the label .* resample the label"):
        load_cases(find_cases(decathlon), config)


def test_channels_on_different_grids_are_refused(decathlon, tmp_path):
    root = nnunet(tmp_path / "Dataset099_Balls", decathlon, channels=2)
    write_nifti(root / "imagesTr/case_0_0001.nii.gz", phantom(0)[0], affine_of((2, 1, 1)))
    with pytest.raises(GeometryError, match=r"Case case_0: .*case_0_0001\.nii\.gz is .* resample all channels"):
        read_image(find_cases(root)[0])


def test_damaged_file_is_reported_with_its_case(decathlon, config):
    (decathlon / "imagesTr/case_2.nii.gz").write_bytes(b"\x1f\x8b no gzip")
    with pytest.raises(InputError, match="Case case_2: "):
        load_cases(find_cases(decathlon), config)


def test_number_of_channels_has_to_be_the_networks(decathlon, tmp_path, config):
    root = nnunet(tmp_path / "Dataset099_Balls", decathlon, channels=2)
    with pytest.raises(ConfigError, match=r"Case case_0: the image has 2 channel\(s\), but network.in_channels is 1"):
        load_cases(find_cases(root), config)


def test_cases_keep_their_order_whatever_thread_is_first(decathlon, config):
    seen = []
    prepared = load_cases(find_cases(decathlon), config, lambda done, total: seen.append((done, total)))
    assert [case.name for case in prepared] == [f"case_{n}" for n in range(6)]
    assert seen == [(n, 6) for n in range(1, 7)]
    assert prepared[0].image.geometry.shape == SHAPE


def test_cases_of_one_patient_are_never_parted(decathlon, tmp_path):
    rows = [{"number": str(n), "patient": f"p{n // 2}"} for n in range(6)]
    columns = {
        "image": f"{decathlon.name}/imagesTr/case_{{number}}.nii.gz",
        "label": f"{decathlon.name}/labelsTr/case_{{number}}.nii.gz",
        "group": "{patient}",
    }
    cases = find_cases(csv_of(tmp_path / "cases.csv", rows), columns)
    assert [case.group for case in cases] == ["p0", "p0", "p1", "p1", "p2", "p2"]
    kept_out = [split(cases, DataSettings(root=tmp_path, folds=3, fold=fold))[1] for fold in range(3)]
    assert [[case.name for case in part] for part in kept_out] == [
        ["case_0", "case_1"],
        ["case_2", "case_3"],
        ["case_4", "case_5"],
    ]
    train, named = split(cases, DataSettings(root=tmp_path, validation=("p1", "case_5")))
    assert [case.name for case in named] == ["case_2", "case_3", "case_5"]
    assert [case.name for case in train] == ["case_0", "case_1", "case_4"]


def test_template_of_a_column_that_is_not_there_is_refused(tmp_path):
    table = csv_of(tmp_path / "cases.csv", [{"number": "1"}])
    with pytest.raises(ConfigError, match=r"data.columns.image is '\{slice\}.png', which \(number\) do not fill in"):
        find_cases(table, {"image": "{slice}.png", "label": "{number}.png"})


def test_values_of_label_files_can_stand_for_labels_or_background(decathlon, config):
    settings = config.model_copy(update={"data": config.data.model_copy(update={"values": {1: 2, 2: 0}})})
    plain, changed = (load_cases(find_cases(decathlon)[:1], one)[0].reference.array for one in (config, settings))
    np.testing.assert_array_equal(changed, np.where(plain == 1, 2, 0))

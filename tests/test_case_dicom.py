"""Masks as DICOM objects."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

import medseg
import medseg.case
from medseg.cases import plan_cases
from medseg.errors import ConfigError
from medseg.formats import read_segmentation
from medseg.inputs import find_inputs
from medseg.ledger import Status
from tests.dicom_files import make, save
from tests.one_case import run
from tests.tiny import files_below, phantom, save_scan

pytestmark = pytest.mark.usefixtures("exact")


MASKS = {"dicom-seg": "ct_seg.dcm", "dicom-seg-binary": "ct_seg.dcm", "dicom-rtstruct": "ct_rtstruct.dcm"}


def dicom_scan(folder: Path) -> Path:
    """The phantom as a DICOM series; its voxels are 0.5 × 1.5 × 4 mm."""
    voxels = phantom().transpose(2, 1, 0).astype(np.uint16)
    return save(folder, *(make(k, voxels, Modality="MR", RescaleIntercept=0) for k in range(len(voxels))))


@pytest.mark.parametrize("output_type", list(MASKS))
def test_mask_of_a_dicom_series_is_a_dicom_object_with_the_models_name(tmp_path, model, output_type):
    scan = dicom_scan(tmp_path / "ct")
    result = run(scan, tmp_path / "out", model, output_type=output_type)
    mask = tmp_path / "out" / MASKS[output_type]
    assert files_below(tmp_path / "out") == sorted([mask.name, "preview.png", "run.json", "statistics.json"])
    array = read_segmentation(mask, onto=medseg.read(scan).geometry).array
    np.testing.assert_array_equal(array, (phantom() == 150) + 4 * (phantom() == 280))
    assert "Segmentation by tiny" in str(pydicom.dcmread(mask).SeriesDescription)
    assert result.record.settings["output_type"] == output_type
    assert run(scan, tmp_path / "out", model, output_type=output_type).status is Status.DONE
    assert run(scan, tmp_path / "out", model).status is Status.NEW  # the other mask's record stays its own
    assert mask.exists()


def test_dicom_mask_beside_its_series_or_as_a_file_has_its_own_folder(tmp_path, model):
    scan = dicom_scan(tmp_path / "ct")
    run(scan, None, model, output_type="dicom-seg", preview=False)
    assert (tmp_path / "ct_seg.dcm").is_file()
    assert files_below(tmp_path / "ct_seg") == ["run.json", "statistics.json"]
    run(scan, tmp_path / "plan.dcm", model, output_type="dicom-rtstruct", preview=False)
    assert files_below(tmp_path / "plan") == ["run.json", "statistics.json"]


def test_label_that_was_not_found_is_a_finding_of_a_dicom_mask(tmp_path, model):
    scan, settings = dicom_scan(tmp_path / "ct"), {"output_type": "dicom-seg", "roi_subset": ("dim",)}
    record = run(scan, tmp_path / "out", model, **settings).record
    assert "empty-segments" not in [finding.code for finding in record.findings]
    voxels = np.where(phantom() == 280, 10, phantom()).transpose(2, 1, 0).astype(np.uint16)
    scan = save(tmp_path / "mr", *(make(k, voxels, Modality="MR", RescaleIntercept=0) for k in range(12)))
    record = run(scan, tmp_path / "out2", model, output_type="dicom-seg").record
    assert "empty-segments" in [finding.code for finding in record.findings]


def test_dicom_mask_of_a_scan_that_is_not_dicom_is_refused_before_it_is_segmented(tmp_path, model, monkeypatch):
    monkeypatch.setattr("medseg.case.segment", lambda *args, **kwargs: pytest.fail("was segmented"))
    with pytest.raises(ConfigError, match=r"scan\.nii\.gz: --output-type dicom-seg refers to the DICOM slices"):
        run(save_scan(tmp_path / "scan.nii.gz"), tmp_path / "out", model, output_type="dicom-seg")


@pytest.mark.parametrize(("name", "output_type"), [("mask.nii.gz", "dicom-seg"), ("mask.dcm", "nifti")])
def test_ending_of_another_output_type_is_refused(tmp_path, name, output_type):
    inputs = find_inputs([str(save_scan(tmp_path / "scan.nii.gz"))])
    with pytest.raises(ConfigError, match="give another ending"):
        plan_cases(inputs, tmp_path / name, output_type)

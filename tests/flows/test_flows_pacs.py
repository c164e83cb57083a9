"""The flows with a PACS: one that tests can make fail, and a real one."""

import io
import logging

import pydicom
import pytest

pytest.importorskip("prefect", reason="needs the extra: pip install 'medseg[flows]'")

from pydantic import ValidationError
from pydicom.uid import generate_uid

from flows.exchange import fetch_new, fetch_study
from flows.forms import ArchiveRequest, Pacs, StudyRequest
from flows.reprocess import reprocess_studies
from flows.segment_study import segment_study
from medseg.errors import ServerError
from medseg.opaque import secret
from medseg.pacs.client import KEY, RemoteSeries
from medseg.pacs.transfer import push
from tests.dicom_files import PATIENT, make, save
from tests.flows.seen import flow_runs, told
from tests.pacs.orthanc import running
from tests.tiny import phantom

PACS = {"server": "https://pacs/dicom-web"}
VOXELS = phantom().transpose(2, 1, 0).astype("uint16")


class FailingPacs:
    """One study of one series; what is stored is kept, and the first `faults` requests fail."""

    def __init__(self, faults: int = 0) -> None:
        self.slices = [make(k, VOXELS, Modality="MR", RescaleIntercept=0) for k in range(12)]
        self.one = RemoteSeries("1.2.3", "1.2.3.4", "MR")
        self.faults, self.fetched, self.stored = faults, 0, []

    def studies(self, filters):
        return (self.one.study,)

    def series(self, study):
        self.faults -= 1
        if self.faults >= 0:
            raise ServerError("the PACS is down")
        return (self.one, RemoteSeries(study, "1.2.3.9", "SEG"))

    def instances(self, series):
        return {str(one.SOPInstanceUID): "" for one in self.slices}

    def fetch(self, series, instances, receive):
        self.fetched += 1
        for one in self.slices:
            buffer = io.BytesIO()
            pydicom.dcmwrite(buffer, one, enforce_file_format=True)
            receive(buffer.getvalue())

    def store(self, paths):
        self.stored += [str(pydicom.dcmread(path).SOPInstanceUID) for path in paths]


@pytest.fixture
def pacs(monkeypatch) -> FailingPacs:
    one = FailingPacs(faults=1)
    monkeypatch.setattr("flows.forms.connect", lambda server: one)
    monkeypatch.setattr(fetch_study, "retry_delay_seconds", 0)
    monkeypatch.setattr(fetch_new, "retry_delay_seconds", 0)
    return one


def test_study_of_a_pacs_is_fetched_segmented_and_pushed_once(tmp_path, settings, pacs):
    dicom = settings.model_copy(update={"output_type": "dicom-seg"})
    source = {**PACS, "push": True}
    request = StudyRequest(study="1.2.3", output=tmp_path, settings=dicom, pacs=source)
    (folder,) = segment_study(request)
    assert folder == tmp_path / "results" / pacs.one.folder(secret(tmp_path / "images" / KEY))
    assert segment_study(request) == [folder]
    assert (pacs.fetched, len(pacs.stored)) == (1, 1)
    assert not [run.name for run in flow_runs("segment-study") if "1.2.3" in run.name]


def test_new_studies_of_a_pacs_are_reprocessed_and_pushed_once(tmp_path, settings, pacs):
    dicom = settings.model_copy(update={"output_type": "dicom-seg"})
    query = {**PACS, "date": "20260101-20260131", "push": True}
    request = ArchiveRequest(root=tmp_path / "in", output=tmp_path / "out", settings=dicom, pacs=query)
    assert reprocess_studies(request) == 1
    assert reprocess_studies(request) == 0
    assert (pacs.fetched, len(pacs.stored)) == (1, 1)


def test_push_of_masks_that_are_not_dicom_is_refused(tmp_path):
    for request in (StudyRequest, ArchiveRequest):
        place = {"study": "1.2.3", "root": tmp_path, "output": tmp_path}
        fields = {name: value for name, value in place.items() if name in request.model_fields}
        source = {**PACS, "push": True} | ({"date": "20260101"} if request is ArchiveRequest else {})
        with pytest.raises(ValidationError, match="a PACS takes DICOM"):
            request(**fields, pacs=source)


def test_study_of_a_real_pacs_comes_by_its_uid_and_its_mask_goes_back(tmp_path, settings, caplog):
    study, series = str(generate_uid()), str(generate_uid())
    slices = [make(k, VOXELS, Modality="MR", StudyInstanceUID=study, SeriesInstanceUID=series) for k in range(12)]
    for one in slices:
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    (tmp_path / "orthanc").mkdir()
    with running(tmp_path / "orthanc", secure=False) as orthanc, caplog.at_level(logging.DEBUG, "prefect"):
        source = Pacs(server=orthanc.web, push=True)
        push(source.client(), [save(tmp_path / "scanner", *slices)])
        dicom = settings.model_copy(update={"output_type": "dicom-seg"})
        request = StudyRequest(study=study, output=tmp_path / "out", settings=dicom, pacs=source)
        (folder,) = segment_study(request)
        (images, mask) = sorted(source.client().series(study), key=lambda one: one.modality)
        (instance,) = source.client().instances(mask)
    assert (images.series, images.modality, mask.modality) == (series, "MR", "SEG")
    (written,) = folder.glob("*.dcm")
    assert pydicom.dcmread(written).SOPInstanceUID == instance
    for secret_ in (*PATIENT.split("^"), study, series):
        assert secret_ not in told() + caplog.text

import base64
import importlib
import importlib.util
import io
import json
import zipfile
from functools import partial
from pathlib import Path

import pydicom
import pytest
import yaml

prefect = pytest.importorskip("prefect", reason="needs the extra: pip install 'medseg[flows]'")

from prefect.client.orchestration import get_client  # noqa: E402
from prefect.client.schemas.objects import Flow  # noqa: E402
from pydantic import ValidationError  # noqa: E402

import medseg.case  # noqa: E402
from flows.exchange import fetch_new, fetch_study  # noqa: E402
from flows.forms import ArchiveRequest, StudyRequest  # noqa: E402
from flows.heartbeats import install  # noqa: E402
from flows.reprocess import reprocess_studies  # noqa: E402
from flows.segment_study import _runner, segment_scan, segment_study  # noqa: E402
from medseg.config import PredictConfig  # noqa: E402
from medseg.errors import BatchError, InputError, ServerError  # noqa: E402
from medseg.ledger import read_record  # noqa: E402
from medseg.pacs.client import RemoteSeries  # noqa: E402
from tests.dicom_files import make  # noqa: E402
from tests.tiny import files_below, phantom, save_scan, save_tiny_model  # noqa: E402


@pytest.fixture
def settings(tmp_path) -> PredictConfig:
    _runner.cache_clear()
    save_tiny_model(tmp_path / "models" / "tiny")
    return PredictConfig(model=str(tmp_path / "models" / "tiny"), device="cpu", preview=False)


def study_request(tmp_path, settings, **changes) -> StudyRequest:
    return StudyRequest(study=str(tmp_path / "scans"), output=tmp_path / "out", settings=settings, **changes)


def artifacts(key: str) -> list[str]:
    with get_client(sync_client=True) as client:
        return [str(one.data) for one in client.read_artifacts() if one.key == key]


def flow_runs(name: str) -> list:
    with get_client(sync_client=True) as client:
        flows: dict[object, Flow] = {one.id: one for one in client.read_flows()}
        return [run for run in client.read_flow_runs() if flows[run.flow_id].name == name]


def test_study_is_segmented_with_a_table_of_labels_volumes_and_dice_and_links_to_its_files(tmp_path, settings):
    scan = save_scan(tmp_path / "scans" / "scan.nii.gz")
    reference = save_scan(tmp_path / "reference.nii.gz", (phantom() == 150).astype("uint8"))
    (folder,) = segment_study(study_request(tmp_path, settings, reference=reference))
    assert folder == tmp_path / "out" / "scan"
    assert read_record(folder).input.name == scan.name
    (rows,) = [json.loads(text) for text in artifacts("labels") if "dim" in text]
    volumes = {row["name"]: row["volume_ml"] for row in json.loads((folder / "statistics.json").read_text())["labels"]}
    assert {row["label"]: row["volume_ml"] for row in rows} == volumes
    assert 0 <= rows[0]["dice"] <= 1
    assert any((folder / "scan_seg.nii.gz").as_uri() in text for text in artifacts("files"))
    assert artifacts("progress")


def test_second_run_leaves_a_result_that_stands_and_its_name_names_no_study(tmp_path, settings):
    save_scan(tmp_path / "scans" / "MILLER.nii.gz")
    (folder,) = segment_study(study_request(tmp_path, settings))
    written = (folder / "run.json").stat().st_mtime_ns
    assert segment_study(study_request(tmp_path, settings)) == [folder]
    assert (folder / "run.json").stat().st_mtime_ns == written
    assert not [run.name for run in flow_runs("segment-study") if "MILLER" in run.name or "scans" in run.name]


def test_model_is_loaded_once_by_the_flow_runs_of_a_process(tmp_path, settings, monkeypatch):
    loaded, load = [], medseg.case.load_model
    monkeypatch.setattr(medseg.case, "load_model", lambda folder: loaded.append(folder) or load(folder))
    for name in "ab":
        save_scan(tmp_path / name / "scan.nii.gz")
        segment_study(StudyRequest(study=str(tmp_path / name), output=tmp_path / "out" / name, settings=settings))
    assert len(loaded) == 1


def failing(error: Exception, tries: list, *args, **kwargs):
    tries.append(1)
    raise error


@pytest.mark.parametrize(("error", "expected"), [(InputError("bad"), 1), (OSError("network"), 3)])
def test_bad_input_is_never_tried_again_and_a_passing_fault_is(tmp_path, settings, monkeypatch, error, expected):
    save_scan(tmp_path / "scans" / "scan.nii.gz")
    tries: list = []
    monkeypatch.setattr("medseg.case.segment", partial(failing, error, tries))
    monkeypatch.setattr(segment_scan, "retry_delay_seconds", 0)
    with pytest.raises(BatchError, match="1 of 1 scans failed"):
        segment_study(study_request(tmp_path, settings))
    assert len(tries) == expected
    assert files_below(tmp_path / "out" / "scan") == ["failed.json"]


def test_study_without_a_scan_fails_with_the_reason(tmp_path, settings):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "bad.nii.gz").write_bytes(b"\x1f\x8bnot really")
    with pytest.raises(InputError, match="bad"):
        segment_study(study_request(tmp_path, settings))


PACS = {"server": "https://pacs/dicom-web"}


@pytest.mark.parametrize("changes", [{"frame": -1}, {"studdy": "x"}, {"settings": {"overlap": 2}}, {"pacs": PACS}])
def test_wrong_parameter_is_refused(tmp_path, changes):
    with pytest.raises(ValidationError):
        StudyRequest(**({"study": "scan.nii.gz", "output": tmp_path} | changes))


def test_parameters_are_a_form_with_descriptions():
    form = json.dumps(segment_study.parameters.model_dump())
    for part in ("A scan's file, an archive, or a folder", "dicom-seg-binary", "Which volume of a 4D file"):
        assert part in form


def test_archive_is_reprocessed_in_chunks_and_only_what_is_stale(tmp_path, settings):
    for name in "abc":
        save_scan(tmp_path / "scans" / f"{name}.nii.gz", phantom() + ord(name))
    request = ArchiveRequest(root=tmp_path / "scans", output=tmp_path / "out", settings=settings, chunk=2)
    assert reprocess_studies(request) == 2
    assert len(flow_runs("segment-chunk")) == 2
    before = {path: path.stat().st_mtime_ns for path in Path(tmp_path / "out").glob("*/run.json")}
    (tmp_path / "out" / "c" / "c_seg.nii.gz").unlink()
    assert reprocess_studies(request) == 1
    changed = [path.parent.name for path, then in before.items() if path.stat().st_mtime_ns != then]
    assert changed == ["c"]


def test_bad_study_of_an_archive_fails_the_run_once_and_the_others_are_done(tmp_path, settings):
    for name in "ab":
        save_scan(tmp_path / "scans" / f"{name}.nii.gz")
    (tmp_path / "scans" / "bad.nii.gz").write_bytes(b"\x1f\x8bnot really")
    request = ArchiveRequest(root=tmp_path / "scans", output=tmp_path / "out", settings=settings)
    with pytest.raises(BatchError, match="1 studies failed"):
        reprocess_studies(request)
    assert sorted(path.parent.name for path in (tmp_path / "out").glob("*/run.json")) == ["a", "b"]
    assert any("bad" in text for text in artifacts("failed"))
    assert reprocess_studies(request) == 0


def test_deployments_name_flows_that_exist():
    root = Path(__file__).parents[2]
    names = []
    for deployment in yaml.safe_load((root / "flows" / "prefect.yaml").read_text())["deployments"]:
        module, name = deployment["entrypoint"].rsplit(".", 1)
        names.append(f"{getattr(importlib.import_module(module), name).name}/{deployment['name']}")
    assert names == ["segment-study/local", "segment-study/gpu", "reprocess-studies/nightly"]


def test_no_file_of_flows_hides_a_package_when_prefect_loads_it_as_a_script():
    folder = Path(__file__).parents[2] / "flows"
    assert [path.stem for path in folder.glob("[a-z]*.py") if importlib.util.find_spec(path.stem)] == []


def test_automation_for_silent_runs_is_installed_once():
    assert install().id == install().id


def test_preview_is_shown_as_a_small_picture(tmp_path, settings):
    save_scan(tmp_path / "scans" / "scan.nii.gz")
    segment_study(study_request(tmp_path, settings.model_copy(update={"preview": True, "report": True})))
    kind, _, content = artifacts("preview")[0].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert base64.b64decode(content)[:2] == b"\xff\xd8"
    assert len(content) < 100_000
    assert any("report.html" in text for text in artifacts("files"))


def test_archive_of_a_study_is_segmented_beside_others(tmp_path, settings):
    scan = save_scan(tmp_path / "scan.nii.gz")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.write(scan, "scan.nii.gz")
    request = StudyRequest(study=str(tmp_path / "study.zip"), output=tmp_path / "out", settings=settings)
    assert segment_study(request) == [tmp_path / "out" / "scan"]


class Pacs:
    """One study of one series; what is stored is kept, and the first `faults` requests fail."""

    def __init__(self, faults: int = 0) -> None:
        voxels = phantom().transpose(2, 1, 0).astype("uint16")
        self.slices = [make(k, voxels, Modality="MR", RescaleIntercept=0) for k in range(12)]
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
def pacs(monkeypatch) -> Pacs:
    one = Pacs(faults=1)
    monkeypatch.setattr("flows.forms.connect", lambda server: one)
    monkeypatch.setattr(fetch_study, "retry_delay_seconds", 0)
    monkeypatch.setattr(fetch_new, "retry_delay_seconds", 0)
    return one


def test_study_of_a_pacs_is_fetched_segmented_and_pushed_once(tmp_path, settings, pacs):
    dicom = settings.model_copy(update={"output_type": "dicom-seg"})
    source = {**PACS, "push": True}
    request = StudyRequest(study="1.2.3", output=tmp_path, settings=dicom, pacs=source)
    (folder,) = segment_study(request)
    assert folder == tmp_path / "results" / pacs.one.folder
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

import base64
import importlib
import importlib.util
import json
import re
import zipfile
from functools import partial
from pathlib import Path

import pytest
import yaml

prefect = pytest.importorskip("prefect", reason="needs the extra: pip install 'medseg[flows]'")

from pydantic import ValidationError  # noqa: E402

import medseg.case  # noqa: E402
from flows.forms import ArchiveRequest, StudyRequest  # noqa: E402
from flows.heartbeats import install  # noqa: E402
from flows.reprocess import reprocess_studies  # noqa: E402
from flows.segment_study import segment_scan, segment_study  # noqa: E402
from medseg.errors import BatchError, InputError  # noqa: E402
from medseg.ledger import read_record  # noqa: E402
from tests.flows.seen import artifacts, flow_runs  # noqa: E402
from tests.tiny import files_below, phantom, save_scan  # noqa: E402


def study_request(tmp_path, settings, **changes) -> StudyRequest:
    return StudyRequest(study=str(tmp_path / "scans"), output=tmp_path / "out", settings=settings, **changes)


def test_study_is_segmented_with_a_table_of_labels_volumes_and_dice_and_links_to_its_files(tmp_path, settings):
    scan = save_scan(tmp_path / "scans" / "scan.nii.gz")
    reference = save_scan(tmp_path / "reference.nii.gz", (phantom() == 150).astype("uint8"))
    (folder,) = segment_study(study_request(tmp_path, settings, reference=reference))
    assert folder == tmp_path / "out" / "scan"
    assert read_record(folder).input.name == scan.name
    (rows,) = [json.loads(text) for text in artifacts("labels") if "dim" in text]
    volumes = {row["name"]: row["volume_ml"] for row in json.loads((folder / "statistics.json").read_text())["labels"]}
    assert {row["label"]: row["volume, ml"] for row in rows} == volumes
    assert 0 <= rows[0]["Dice"] <= 1
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
    (content,) = re.findall(r"!\[.*?\]\(data:image/jpeg;base64,(.*?)\)", artifacts("preview")[0])
    assert base64.b64decode(content)[:2] == b"\xff\xd8"
    assert len(content) < 100_000
    assert any("report.html" in text for text in artifacts("files"))


def test_archive_of_a_study_is_segmented_beside_others(tmp_path, settings):
    scan = save_scan(tmp_path / "scan.nii.gz")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.write(scan, "scan.nii.gz")
    request = StudyRequest(study=str(tmp_path / "study.zip"), output=tmp_path / "out", settings=settings)
    assert segment_study(request) == [tmp_path / "out" / "scan"]

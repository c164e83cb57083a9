"""What the commands do with a real PACS."""

import json
import logging
from itertools import count
from pathlib import Path

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner, Result
from pydicom.uid import RLELossless

from medseg.cli import main
from tests.dicom_files import PATIENT, make, save
from tests.pacs.orthanc import PASSWORD, USER, Orthanc
from tests.tiny import files_below, phantom, save_tiny_model

WAYS = ["web", "get", "secure web", "secure move"]
_NUMBER = count(1)


def command(*arguments: object, **options) -> Result:
    return CliRunner().invoke(main, ["pacs", *map(str, arguments)], **options)


def done(result: Result) -> Result:
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def refused(result: Result, code: int, *parts: str) -> None:
    assert result.exit_code == code, (result.output, result.exception)
    (line,) = result.stderr.splitlines()
    assert all(part in line for part in parts), line
    assert PASSWORD not in result.output
    assert "Secretive" not in result.output


@pytest.fixture
def server(request, credentials):
    """Function of a way to speak: the arguments for it."""

    def arguments(way: str) -> list[object]:
        orthanc: Orthanc = request.getfixturevalue("secure" if "secure" in way else "plain")
        options: list[object] = [orthanc.web if "web" in way else orthanc.dimse]
        if "secure" in way:
            options += ["--ca", orthanc.certificate, "--credentials", credentials]
            options += [] if "web" in way else ["--cert", orthanc.certificate]
        return options

    return arguments


def listening(request, way: str) -> list[str]:
    if "move" not in way:
        return []
    return ["--listen", request.getfixturevalue("secure" if "secure" in way else "plain").listen]


def new_study() -> str:
    return f"1.2.826.0.1.3680043.10.999.{next(_NUMBER)}"


def series(folder: Path, study: str, first: int = 0, last: int = 12, number: int = 1, **changes) -> Path:
    """The phantom as MR slices of a new study; the planes that are asked for."""
    voxels = phantom().transpose(2, 1, 0).astype(np.uint16)
    own = f"{study}.{number}"
    attributes = {"StudyInstanceUID": study, "SeriesInstanceUID": own, "Modality": "MR", "RescaleIntercept": 0}
    slices = [make(k, voxels, **(attributes | changes)) for k in range(first, last)]
    for k, one in zip(range(first, last), slices, strict=True):
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"{own}.{k + 1}"
        one.InstanceNumber = k
    return save(folder, *slices)


def by_uid(folder: Path) -> dict[str, pydicom.FileDataset]:
    found = [pydicom.dcmread(path) for path in folder.rglob("*.dcm")]
    return {str(one.SOPInstanceUID): one for one in found}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_pushed_comes_back_the_same_under_names_that_say_nothing(tmp_path, server, request, way):
    study = new_study()
    sent = series(tmp_path / "sent", study)
    done(command("push", *server(way), sent))
    options = (*listening(request, way), "-o", tmp_path / "got", "--study", study, "--json")
    result = done(command("pull", *server(way), *options))
    (one,) = json.loads(result.stdout)["series"]
    assert (one["modality"], one["files"]) == ("MR", 12)
    assert by_uid(Path(one["folder"])) == by_uid(sent)
    names = " ".join(files_below(tmp_path / "got")) + result.output
    assert study not in names
    assert PATIENT not in names
    hidden = [name for name in files_below(tmp_path / "got") if Path(name).name.startswith(".")]
    assert hidden == [".medseg-key"]  # and nothing half-written
    assert (tmp_path / "got" / ".medseg-key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("way", ["web", "get", "move"])
def test_compressed_images_stay_compressed(tmp_path, server, request, way):
    study = new_study()
    sent = series(tmp_path / "sent", study, last=2)
    for path in sent.iterdir():
        one = pydicom.dcmread(path)
        one.compress(RLELossless, generate_instance_uid=False)
        one.save_as(path)
    done(command("push", *server(way), sent))
    done(command("pull", *server(way), *listening(request, way), "-o", tmp_path / "got", "--study", study))
    got = by_uid(tmp_path / "got")
    assert {one.file_meta.TransferSyntaxUID for one in got.values()} == {RLELossless}
    assert got == by_uid(sent)


@pytest.mark.parametrize("way", ["web", "get"])
def test_pull_takes_what_was_asked_for_only(tmp_path, server, way):
    study, other, patient = new_study(), new_study(), f"P{new_study()}"
    changes = {"PatientID": patient, "StudyDate": "20260102", "AccessionNumber": patient[-8:]}
    done(command("push", *server(way), series(tmp_path / "a", study, last=2, **changes)))
    done(command("push", *server(way), series(tmp_path / "b", study, last=3, number=2, **changes)))
    done(command("push", *server(way), series(tmp_path / "c", other, last=1)))

    def pulled(*options: object) -> list[int]:
        out = tmp_path / f"out{next(_NUMBER)}"
        result = done(command("pull", *server(way), "-o", out, "--json", *options))
        return sorted(one["files"] for one in json.loads(result.stdout)["series"])

    assert pulled("--patient-id", patient) == [2, 3]
    assert pulled("--accession", patient[-8:], "--date", "20260101-20260103") == [2, 3]
    assert pulled("--study", study, "--series", f"{study}.2") == [3]
    nothing = command("pull", *server(way), "-o", tmp_path / "no", "--patient-id", patient, "--date", "20250101")
    refused(nothing, 3, "No series in the PACS")
    nothing = command("pull", *server(way), "-o", tmp_path / "no", "--study", study, "--modality", "CT")
    refused(nothing, 3, "No series in the PACS")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("way", ["secure web", "secure get"])
def test_neither_password_nor_patient_is_logged(tmp_path, server, way, caplog):
    study = new_study()
    with caplog.at_level(logging.DEBUG):
        done(command("push", *server(way), series(tmp_path / "sent", study, last=2, PatientID="Secretive")))
        done(command("pull", *server(way), "-o", tmp_path / "got", "--patient-id", "Secretive", "--study", study))
    logged = " ".join(record.getMessage() for record in caplog.records)
    for secret in (PASSWORD, USER, "Secretive", study, "cmFkaW9sb2dpc3Q"):  # the last: the user in Base64
        assert secret not in logged


def test_password_can_be_typed_and_a_wrong_one_is_one_line(tmp_path, secure):
    sent = series(tmp_path / "sent", new_study(), last=1)
    arguments = ("push", secure.web, sent, "--ca", secure.certificate, "--user", USER)
    result = done(command(*arguments, input=f"{PASSWORD}\n"))
    assert PASSWORD not in result.output
    wrong = command(*arguments, input="guessed\n")
    assert wrong.exit_code == 7
    assert "answered 401; give --credentials or --user" in wrong.stderr
    assert "guessed" not in wrong.output
    refused(command("push", secure.web, sent, "--ca", secure.certificate), 7, "answered 401")


def test_server_that_nobody_vouches_for_gets_nothing(tmp_path, secure, credentials):
    sent = series(tmp_path / "sent", new_study(), last=1)
    other = ("--ca", secure.other_certificate, "--credentials", credentials)
    refused(command("push", secure.web, sent, "--credentials", credentials), 7, "no TLS connection", "--ca")
    refused(command("push", secure.web, sent, *other), 7, "no TLS connection")
    refused(command("push", secure.dimse, sent, *other, "--cert", secure.certificate), 7, "no association", "--ca")
    trusted = ("--ca", secure.certificate, "--cert", secure.other_certificate)
    refused(command("push", secure.dimse, sent, *trusted), 7, "no association", "--cert")


def test_address_without_a_pacs_is_one_line(tmp_path, plain):
    sent = series(tmp_path / "sent", new_study(), last=1)
    refused(command("push", "http://127.0.0.1:9/dicom-web", sent), 7, "cannot be reached")
    refused(command("push", "dicom://NOBODY@127.0.0.1:9", sent), 7, "no association")
    refused(command("push", plain.web.replace("dicom-web", "elsewhere"), sent), 7, "answered 404; check the address")


@pytest.mark.parametrize("way", ["web", "secure move"])
def test_watch_segments_a_stable_study_once_and_pushes_the_mask_into_it(tmp_path, server, request, way):
    study = new_study()
    save_tiny_model(tmp_path / "tiny")
    done(command("push", *server(way), series(tmp_path / "sent", study)))
    done(command("push", *server(way), series(tmp_path / "scout", study, number=2, last=1, Modality="CT")))

    def watch() -> list[dict]:
        options = ("--study", study, "-o", tmp_path / "out", "--model", tmp_path / "tiny", "--device", "cpu")
        timing = ("--stable", "0.2", "--interval", "0.1", "--once", "--modality", "MR", "--json")
        result = done(command("watch", *server(way), *listening(request, way), *options, *timing))
        return [json.loads(line) for line in result.stdout.splitlines()]

    (event,) = watch()
    assert event["outcome"] == "pushed"
    assert watch() == []
    (mask,) = pulled_masks(tmp_path / "back", [*server(way), *listening(request, way)], study)
    assert mask == pydicom.dcmread(event["masks"][0])
    assert mask.ReferencedSeriesSequence[0].SeriesInstanceUID == f"{study}.1"
    assert len(mask.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 12
    assert not list((tmp_path / "out" / "images").rglob("*.dcm"))
    assert PATIENT not in " ".join(files_below(tmp_path / "out"))


@pytest.mark.parametrize("way", ["web"])
def test_watch_does_a_series_again_to_which_images_came_late(tmp_path, server, way):
    study = new_study()
    save_tiny_model(tmp_path / "tiny")
    done(command("push", *server(way), series(tmp_path / "sent", study, last=11)))
    options = ("--study", study, "-o", tmp_path / "out", "--model", tmp_path / "tiny", "--device", "cpu", "--once")
    done(command("watch", *server(way), *options, "--stable", "0"))
    done(command("push", *server(way), series(tmp_path / "late", study, first=11)))
    done(command("watch", *server(way), *options, "--stable", "0"))
    masks = pulled_masks(tmp_path / "back", server(way), study)
    counts = [len(mask.ReferencedSeriesSequence[0].ReferencedInstanceSequence) for mask in masks]
    assert sorted(counts) == [11, 12]


def pulled_masks(folder: Path, server: list[object], study: str) -> list[pydicom.FileDataset]:
    done(command("pull", *server, "-o", folder, "--study", study, "--modality", "SEG"))
    return list(by_uid(folder).values())

"""When a study is taken, and that it is taken once, with a PACS that does as a test says."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medseg.case import Predictor, run_cases
from medseg.cases import plan_cases
from medseg.config import PredictConfig
from medseg.errors import InputError, ModelError, ServerError
from medseg.inputs import find_inputs
from medseg.locks import locked
from medseg.opaque import secret
from medseg.pacs.client import KEY, Filters, RemoteSeries
from medseg.pacs.transfer import pull, push
from medseg.pacs.watch import RECORD, Outcome, Watcher, read_done
from tests.dicom_files import PATIENT, make
from tests.tiny import files_below, phantom, save_tiny_model

SERIES = RemoteSeries("1.2.3", "1.2.3.4", "MR")


class FakePacs:
    """One study with one series of the first `size` slices; what is stored is kept."""

    def __init__(self, size: int = 12) -> None:
        voxels = phantom().transpose(2, 1, 0).astype(np.uint16)
        self.slices = [make(k, voxels, Modality="MR", RescaleIntercept=0) for k in range(12)]
        self.size = size
        self.stored: list[pydicom.FileDataset] = []
        self.fetched = 0
        self.down = False
        self.sent = lambda slices: slices

    def studies(self, filters):
        return (SERIES.study,)

    def series(self, study):
        return (SERIES, *(RemoteSeries(study, one.SeriesInstanceUID, one.Modality) for one in self.stored))

    def instances(self, series):
        return {str(one.SOPInstanceUID): "" for one in self.slices[: self.size]}

    def fetch(self, series, instances, receive):
        self.fetched += 1
        for one in self.sent(self.slices[: self.size]):
            buffer = io.BytesIO()
            pydicom.dcmwrite(buffer, one, enforce_file_format=True)
            receive(buffer.getvalue())

    def store(self, paths):
        if self.down:
            raise ServerError("the PACS is down")
        self.stored += [pydicom.dcmread(path) for path in paths]


class Bench:
    """A watcher with a clock that stands until a test moves it, and a count of what was segmented."""

    def __init__(self, folder: Path, pacs: FakePacs, error: Exception | None = None) -> None:
        save_tiny_model(folder / "tiny")
        settings = PredictConfig(model=str(folder / "tiny"), output_type="dicom-seg", preview=False)
        self.predictor = Predictor(settings, device="cpu")
        self.folder, self.pacs, self.error = folder / "out", pacs, error
        self.now = 0.0
        self.made: list[object] = []
        self.results = self.folder / "results" / SERIES.folder(secret(self.folder / KEY))
        self.watcher = self.restarted()

    def restarted(self) -> Watcher:
        self.watcher = Watcher(self.pacs, self.folder, self.segment, stable_s=60, clock=lambda: self.now)
        return self.watcher

    def segment(self, images, results):
        if self.error is not None:
            raise self.error
        cases = plan_cases(find_inputs([str(images)]), results, "dicom-seg")
        made = tuple(run_cases(cases, self.predictor, progress=lambda case: lambda *_: None, skip_done=True))
        self.made += [one for one in made if one.record is not None]
        return made

    def after(self, seconds: float) -> list[tuple[Outcome, tuple[str, ...]]]:
        self.now += seconds
        events = []
        self.watcher.poll(events.append)
        return [(event.outcome, event.messages) for event in events]


def test_study_is_taken_when_it_has_not_changed_for_the_stable_time_and_only_once(tmp_path):
    pacs = FakePacs(size=10)
    bench = Bench(tmp_path, pacs)
    assert bench.after(0) == []
    assert bench.watcher.pending == 1
    pacs.size = 12
    assert bench.after(59) == []
    assert bench.after(59) == []
    assert pacs.fetched == 0
    assert bench.after(1) == [(Outcome.PUSHED, ())]
    assert bench.watcher.pending == 0
    assert [one.Modality for one in pacs.stored] == ["SEG"]
    assert bench.after(1000) == []
    bench.restarted()
    assert [bench.after(100) for _ in range(3)] == [[], [], []]
    assert (len(pacs.stored), pacs.fetched, len(bench.made)) == (1, 1, 1)


def test_mask_that_could_not_be_pushed_is_pushed_later_and_not_made_again(tmp_path):
    pacs = FakePacs()
    bench = Bench(tmp_path, pacs)
    pacs.down = True
    bench.after(0)
    assert bench.after(60) == [(Outcome.RETRY, ("the PACS is down",))]
    (mask,) = bench.results.glob("*_seg.dcm")
    made = mask.read_bytes()
    bench.restarted()
    pacs.down = False
    bench.after(0)
    assert bench.after(60) == [(Outcome.PUSHED, ())]
    assert mask.read_bytes() == made
    assert len(bench.made) == len(pacs.stored) == 1


def test_series_that_another_process_does_is_left_to_it(tmp_path):
    bench = Bench(tmp_path, FakePacs())
    bench.after(0)
    with locked(bench.results / RECORD):
        assert bench.after(60) == [(Outcome.BUSY, ())]
    assert bench.pacs.fetched == 0
    assert bench.after(60) == [(Outcome.PUSHED, ())]


@pytest.mark.parametrize(
    ("error", "outcome"), [(ModelError("no model"), Outcome.REFUSED), (InputError("no scan"), Outcome.FAILED)]
)
def test_series_that_cannot_be_segmented_is_tried_once(tmp_path, error, outcome):
    bench = Bench(tmp_path, FakePacs(), error)
    bench.after(0)
    assert bench.after(60) == [(outcome, (str(error),))]
    assert bench.after(60) == []
    assert read_done(bench.results).messages == (str(error),)
    assert bench.pacs.stored == []


def test_bug_is_told_by_kind_and_place_and_not_by_its_text(tmp_path):
    bench = Bench(tmp_path, FakePacs())

    def load(*_, **__):
        raise ValueError(f"bad value of {PATIENT}")

    bench.predictor._segment = load
    bench.after(0)
    ((outcome, (message,)),) = bench.after(60)
    assert outcome is Outcome.FAILED
    assert "a bug: ValueError in test_watch.py:" in message
    assert PATIENT not in message + (bench.results / RECORD).read_text()


def test_images_that_come_while_a_series_is_pulled_keep_it_from_being_done(tmp_path):
    pacs = FakePacs(size=11)
    bench = Bench(tmp_path, pacs)
    pacs.sent = lambda slices: pacs.slices
    bench.after(0)
    assert bench.after(60) == [(Outcome.CHANGED, ())]
    assert bench.watcher.pending == 1
    pacs.size = 12
    assert bench.after(30) == []
    assert bench.after(60) == [(Outcome.PUSHED, ())]
    assert len(bench.made) == 1


def test_record_and_names_hold_nothing_of_the_patient(tmp_path):
    bench = Bench(tmp_path, FakePacs())
    bench.after(0)
    bench.after(60)
    texts = [path.read_text() for path in bench.folder.rglob("*.json")]
    for told in (*files_below(bench.folder), *texts):
        assert PATIENT not in told
        assert "1.2.3" not in told
    assert len(texts) == 3


def test_names_of_folders_and_files_cannot_be_computed_without_the_secret_of_the_folder(tmp_path):
    first, second = (pull(FakePacs(), SERIES, tmp_path / name).folder for name in "ab")
    assert first.name != second.name
    assert pull(FakePacs(), SERIES, tmp_path / "a").folder == first
    assert (tmp_path / "a" / KEY).stat().st_mode & 0o077 == 0


def test_record_of_the_same_images_is_another_with_another_secret(tmp_path):
    found = []
    for name in "ab":
        bench = Bench(tmp_path / name, FakePacs())
        bench.after(0)
        bench.after(60)
        found.append(read_done(bench.results))
    assert [one.outcome for one in found] == [Outcome.PUSHED] * 2
    assert found[0].instances != found[1].instances


def test_series_that_does_not_come_whole_is_an_error(tmp_path):
    pacs = FakePacs()
    pacs.sent = lambda slices: slices[:-2]
    with pytest.raises(ServerError, match="2 of 12 instances did not come"):
        pull(pacs, SERIES, tmp_path)


def test_image_of_another_series_does_not_get_in(tmp_path):
    pacs = FakePacs()
    stranger = make(0, Modality="MR", SeriesInstanceUID="1.2.3.5")
    pacs.sent = lambda slices: [*slices[1:], stranger]
    with pytest.raises(ServerError, match="sent an instance of another series"):
        pull(pacs, SERIES, tmp_path)
    assert len(list(tmp_path.rglob("*.dcm"))) == 11


def test_image_that_the_server_has_no_more_is_removed_by_the_next_pull(tmp_path):
    pacs = FakePacs()
    assert len(list(pull(pacs, SERIES, tmp_path).folder.iterdir())) == 12
    pacs.size = 11
    assert len(list(pull(pacs, SERIES, tmp_path).folder.iterdir())) == 11


def test_push_sends_nothing_when_one_of_the_files_is_not_dicom(tmp_path):
    pacs = FakePacs()
    folder = pull(pacs, SERIES, tmp_path / "a").folder
    (tmp_path / "notes.txt").write_text("no DICOM")
    for wrong in (tmp_path / "notes.txt", tmp_path / "absent.dcm"):
        with pytest.raises(InputError, match=wrong.name):
            push(pacs, [folder, wrong])
    assert pacs.stored == []
    (folder / "notes.txt").write_text("no DICOM")
    assert push(pacs, [folder, folder]) == 12


def test_filters_and_series_do_not_show_whom_they_are_about():
    shown = repr(Filters(study="1.2.3", patient_id=PATIENT, accession="A17")) + repr(SERIES)
    assert not any(secret in shown for secret in (PATIENT, "1.2.3", "A17"))

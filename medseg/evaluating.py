"""From two paths to a report: which files belong together, every case on its own, and the files that are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from medseg.atomic import atomic_path
from medseg.errors import InputError, MedsegError
from medseg.formats import read, scan
from medseg.pipeline import align, read_pair
from medseg.report import Measuring, Report, mapped
from medseg.report.cases import Pictures
from medseg.report.cohort import CaseResult, Cohort
from medseg.report.gallery import Gallery, draw, scan_on
from medseg.report.page import evaluation_page
from medseg.report.privacy import is_identifying, shown_names
from medseg.report.summary import metrics_csv, summary
from medseg.report.viewer import ViewerCase
from medseg.resources import resource_error
from medseg.study import Finding
from medseg.volume import Segmentation, Volume

SUMMARY, METRICS_CSV, PAGE = "summary.json", "metrics.csv", "report.html"

_MASK = "_seg"  # what `medseg predict` adds to a scan's name
_OTHERS = {".json", ".csv", ".txt", ".html", ".md", ".yaml", ".yml", ".pkl", ".npz", ".log"}
_PREVIEWS = {"preview"}  # of `medseg predict`


@dataclass(frozen=True)
class Pair:
    """A case: its files by role; a second prediction and a scan are optional."""

    name: str
    reference: Path
    prediction: Path | None
    second: Path | None = None
    image: Path | None = None


@dataclass(frozen=True)
class Paths:
    """What a user points at: files, or folders whose files are paired by name.

    Attributes:
        reference: What counts as right.
        prediction: What is measured.
        second: A second prediction of the same cases.
        images: The scans, for the pictures.
    """

    reference: Path
    prediction: Path
    second: Path | None = None
    images: Path | None = None


@dataclass(frozen=True)
class Evaluation:
    """Numbers and pictures of all cases."""

    cohort: Cohort
    pictures: dict[str, Pictures]
    viewers: tuple[ViewerCase, ...]


def write_evaluation(evaluation: Evaluation, output: Path) -> None:
    """Write summary.json, metrics.csv and report.html; all of them appear at the end, or none does.

    Args:
        evaluation: Numbers and pictures.
        output: A folder; or a .json file for the summary alone.

    Raises:
        ResourceError: If the disk is full or the folder cannot be written.
    """
    cohort = evaluation.cohort
    texts = {SUMMARY: json.dumps(summary(cohort), indent=2, allow_nan=False, ensure_ascii=False) + "\n"}
    if output.suffix == ".json":
        output, texts = output.parent, {output.name: texts[SUMMARY]}
    else:
        texts[METRICS_CSV] = metrics_csv(cohort)
        title = "Evaluation of segmentations"
        texts[PAGE] = evaluation_page(cohort, title=title, pictures=evaluation.pictures, viewers=evaluation.viewers)
    with ExitStack() as stack:
        for name, text in texts.items():
            stack.enter_context(atomic_path(output / name)).write_text(text, encoding="utf-8")


def evaluate_paths(
    paths: Paths,
    measuring: Measuring,
    *,
    resample: bool = False,
    show_names: bool = False,
    with_pictures: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Compare every case; one that fails is reported, and the others go on.

    Args:
        paths: References and predictions.
        measuring: What to measure.
        resample: Bring predictions on another grid onto the reference's.
        show_names: Show file names that look as if they could identify a patient.
        with_pictures: Make pictures and the viewer's volumes.
        progress: Called with (cases done, cases in all).

    Raises:
        InputError: If a path does not exist, or a folder holds no label files.
        ConfigError: If a metric is named that there is not.
    """
    _ = measuring.rows  # an unknown metric is an error before any voxel is read
    pairs, surplus = find_pairs(paths)
    names = shown_names([*(pair.name for pair in pairs), *surplus], show_all=show_names)
    gallery = Gallery()
    results = []
    for number, pair in enumerate(pairs):
        if pair.prediction is not None:
            drawn = gallery if with_pictures else None
            results.append(_case(pair, names[pair.name], measuring, resample=resample, gallery=drawn))
        progress(number + 1, len(pairs))
    withheld = [name for name, shown in names.items() if name != shown]
    note = f"{len(withheld)} file name(s) look as if they could identify a patient; --show-names shows them."
    cohort = Cohort(
        tuple(results),
        measuring,
        missing=tuple(names[pair.name] for pair in pairs if pair.prediction is None),
        surplus=tuple(names[name] for name in surplus),
        findings=(Finding("names-withheld", note),) if withheld else (),
    )
    return Evaluation(cohort, gallery.pictures, gallery.viewers)


def find_pairs(paths: Paths) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Which files belong together, in the order of their names, and the names of predictions without a reference.

    Raises:
        InputError: If a path does not exist or holds no label file, or two files of a folder have one name.
    """
    if paths.reference.is_file() and paths.prediction.is_file():
        name = _stem(paths.reference)
        return (Pair(name, paths.reference, paths.prediction, paths.second, paths.images),), ()
    references, predictions = _named(paths.reference), _named(paths.prediction)
    seconds = _named(paths.second) if paths.second else {}
    images = _named(paths.images) if paths.images else {}
    if len(references) == len(predictions) == 1:  # a file and a folder of one need no common name
        ((name, reference), prediction) = next(iter(references.items())), next(iter(predictions.values()))
        return (Pair(name, reference, prediction, _of(name, seconds), _of(name, images)),), ()
    pairs = tuple(
        Pair(name, path, _of(name, predictions), _of(name, seconds), _of(name, images))
        for name, path in sorted(references.items())
    )
    used = {pair.prediction for pair in pairs}
    return pairs, tuple(sorted(name for name, path in predictions.items() if path not in used))


def _named(path: Path) -> dict[str, Path]:
    """The files of a folder that are, or should be, images, by the names of their cases."""
    study = scan(path)
    if path.is_file():
        return {_stem(path): path}
    damaged = [file for file, _ in study.skipped if file.suffix.lower() not in _OTHERS and file.suffix]
    found: dict[str, Path] = {}
    for files in chain((series.paths for series in study.series), ((file,) for file in damaged)):
        # A series of many files is known by its folder, a file by itself.
        one = files[0] if len({_stem(file) for file in files}) == 1 else files[0].parent
        name = _stem(one)
        if name in _PREVIEWS:
            continue
        if name in found and found[name] != one:
            told = "one case" if is_identifying(name) else f"the case {name!r}"
            raise InputError(f"{path}: two files belong to {told}; give every case one file.")
        found[name] = one
    if not found:
        raise InputError(f"{path}: holds no label file; give a folder of .nii.gz files, or one file.")
    return found


def _of(name: str, files: dict[str, Path]) -> Path | None:
    channels = (f"{name}_0000",)  # nnU-Net's name of a scan's first channel
    return next((files[one] for one in (name, f"{name}{_MASK}", *channels) if one in files), None)


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    return (name.rpartition(".")[0] or name) if not path.is_dir() else name


def _case(pair: Pair, name: str, measuring: Measuring, *, resample: bool, gallery: Gallery | None) -> CaseResult:
    """A case's numbers; its pictures go to the gallery. Whatever is wrong with it becomes its error."""
    assert pair.prediction is not None
    result = CaseResult(
        name, reference=_file(pair.reference, pair, name), prediction=_file(pair.prediction, pair, name)
    )
    try:
        reference, raw = read_pair(pair.reference, pair.prediction, resample=resample)
        predictions = [_aligned(raw, reference, measuring, resample=resample)]
        if pair.second is not None:
            _, raw = read_pair(reference, pair.second, resample=resample)
            predictions.append(_aligned(raw, reference, measuring, resample=resample))
        reports = [_told(Report.of(reference, one, measuring), pair, name) for one in predictions]
        result = replace(result, report=reports[0], second=reports[1] if len(reports) > 1 else None)
        if gallery is None:
            return result
        scan, findings = _scan(pair, name, reference)
        gallery.add(draw(name, scan, reference, predictions), reports[0].mean_dice)
        return replace(result, report=replace(reports[0], findings=(*reports[0].findings, *findings)))
    except MedsegError as error:
        return replace(result, problem=type(error)(_without_name(str(error), pair, name)))
    except Exception as error:
        scarce = resource_error(error)
        if scarce is None:
            raise
        return replace(result, problem=scarce)


def _aligned(
    prediction: Segmentation, reference: Segmentation, measuring: Measuring, *, resample: bool
) -> Segmentation:
    aligned = align(prediction, reference.geometry, resample=resample)
    return mapped(aligned, measuring.mapping, reference.labels)


def _scan(pair: Pair, name: str, reference: Segmentation) -> tuple[Volume | None, tuple[Finding, ...]]:
    """The image of a case; one that cannot be read or placed is a finding, no failure."""
    if pair.image is None:
        return None, ()
    try:
        return scan_on(read(pair.image), reference)
    except MedsegError as error:
        text = f"Pictures are without the image: {_without_name(str(error), pair, name)}"
        return None, (Finding("image-not-drawn", text),)


def _file(path: Path, pair: Pair, name: str) -> str:
    return path.name if name == pair.name else name


def _told(report: Report, pair: Pair, name: str) -> Report:
    """A report whose findings do not name withheld files."""
    findings = tuple(replace(one, message=_without_name(one.message, pair, name)) for one in report.findings)
    return replace(report, findings=findings)


def _without_name(message: str, pair: Pair, name: str) -> str:
    """An error's text without the file names that are withheld."""
    if name == pair.name:
        return message
    for path in (pair.reference, pair.prediction, pair.second, pair.image):
        if path is not None:
            message = message.replace(str(path), name).replace(path.name, name)
    return message.replace(pair.name, name)

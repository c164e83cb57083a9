"""The files of a result: written under other names, then all in place at once, the record last."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from medseg.atomic import atomic_path
from medseg.config import PredictConfig
from medseg.formats import Algorithm, write, write_onto_source
from medseg.labels import LabelSet
from medseg.ledger import RECORD, Output, Record, record_folder, sha256_of
from medseg.locks import locked, present
from medseg.report import preview, statistics, study_page
from medseg.study import Finding
from medseg.volume import Segmentation, Volume

STATISTICS = "statistics.json"
PREVIEW = "preview.png"
REPORT = "report.html"


def publish(
    volume: Volume,
    segmentation: Segmentation,
    *,
    mask: Path,
    preferred: Path,
    settings: PredictConfig,
    source: Sequence[Path],
    algorithm: Algorithm,
    about: Sequence[tuple[str, str]] = (),
    record: Callable[[tuple[Output, ...], tuple[Finding, ...]], Record],
    sidecars: Callable[[LabelSet, Algorithm], Mapping[Path, str]] | None = None,
) -> tuple[Path, Record]:
    """Write the mask, and what the settings ask for, and the record of it all.

    Args:
        volume: The scan.
        segmentation: Its labels with their names.
        mask: The label file.
        preferred: Folder of the other files, unless another mask's are there.
        settings: Which files to write.
        source: Files of the scan, which a DICOM mask refers to.
        algorithm: What made the labels.
        about: What made the labels, for the report.
        record: Called with all other files when they are written, and what was found doubtful on the way.
        sidecars: Gives the texts that go beside the mask.

    Returns:
        The folder of the other files, and the record.

    Raises:
        ResourceError: If the disk is full or a folder cannot be written; then nothing has appeared or changed.
        InputError: If the scan's files cannot be referred to.
        GeometryError: If they cannot carry the labels.
        VerificationError: If the mask, read back, does not hold the labels.
    """
    labels = segmentation.labels
    assert labels is not None  # `segment` names what it labels
    # Two masks may go to one folder at the same moment; only one of them gets to keep its record there.
    with locked(preferred / RECORD):
        folder = record_folder(mask, preferred)
        with present(folder), ExitStack() as stack:
            # What is entered last appears first: the mask and the record come when all else is in place.
            record_part = stack.enter_context(atomic_path(folder / RECORD))
            parts = {mask: stack.enter_context(atomic_path(mask))}
            findings: tuple[Finding, ...] = ()
            if settings.output_type == "nifti":
                write(segmentation, parts[mask])
            else:
                findings = write_onto_source(segmentation, parts[mask], settings.output_type, source, algorithm)
            for path, text in (sidecars(labels, algorithm) if sidecars else {}).items():
                parts[path] = stack.enter_context(atomic_path(path))
                parts[path].write_text(text, encoding="utf-8")
            if settings.statistics:
                path = folder / STATISTICS
                parts[path] = stack.enter_context(atomic_path(path))
                text = json.dumps(statistics(volume, segmentation, labels), indent=2, allow_nan=False)
                parts[path].write_text(text + "\n", encoding="utf-8")
            picture = preview(volume, segmentation, labels) if settings.preview or settings.report else None
            if settings.preview and picture is not None:
                path = folder / PREVIEW
                parts[path] = stack.enter_context(atomic_path(path))
                picture.save(parts[path], format="PNG")
            if settings.report and picture is not None:
                path = folder / REPORT
                parts[path] = stack.enter_context(atomic_path(path))
                page = study_page(volume, segmentation, labels, picture=picture, about=about)
                parts[path].write_text(page, encoding="utf-8")
            made = record(tuple(_output(path, part, folder) for path, part in parts.items()), findings)
            record_part.write_text(made.to_json(), encoding="utf-8")
        # What a run with other settings left here would now stand beside a mask that it does not describe.
        for path in {folder / STATISTICS, folder / PREVIEW, folder / REPORT} - parts.keys():
            path.unlink(missing_ok=True)
    return folder, made


def _output(path: Path, part: Path, folder: Path) -> Output:
    name = path.name if path.parent == folder else f"../{path.name}"
    stat = part.stat()  # a rename changes neither size nor time
    return Output(name=name, bytes=stat.st_size, sha256=sha256_of([part]), mtime_ns=stat.st_mtime_ns)

"""Results as a BIDS derivative, as the BIDS specification 1.10 describes discrete segmentations.

Of sub-01/anat/sub-01_T1w.nii.gz:

    sub-01/anat/sub-01_space-T1w_desc-medseg_dseg.nii.gz    the mask on the scan's own grid
    sub-01/anat/sub-01_space-T1w_desc-medseg_dseg.tsv       index, name and colour of the labels
    sub-01/anat/sub-01_space-T1w_desc-medseg_dseg.json      what it was made from, and by what
    sub-01/anat/sub-01_space-T1w_desc-medseg_dseg/          run.json, statistics.json, preview.png
    sub-01.html, group_dseg.tsv                             all that a subject has; the volumes of all subjects
"""

from __future__ import annotations

import csv
import html
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.atomic import write_text
from medseg.cases import Case
from medseg.errors import ConfigError, InputError
from medseg.formats import Algorithm
from medseg.inputs import Input, find_inputs
from medseg.labels import LabelSet
from medseg.ledger import RECORD, own_folder
from medseg.study import DEFAULT_OPTIONS, ScanOptions

VERSION = "1.10.0"
DESCRIPTION = "dataset_description.json"

_DATATYPES = ("anat", "ct", "pet")  # single volumes; what else there is varies in time or direction
_ENDINGS = (".nii.gz", ".nii")
_NO_SCANS = ("mask", "defacemask", "dseg", "probseg")
_IGNORED = "*_dseg/\n*.html\ngroup_dseg.tsv\n"  # beyond the specification, so that a validator passes them over
_COLUMNS = ("participant_id", "session_id", "mask", "index", "name", "voxels", "volume_mm3")


@dataclass(frozen=True)
class Sidecars:
    """The .tsv and .json beside a mask.

    Attributes:
        mask: The mask.
        source: The scan, from the dataset's root, with forward slashes.
    """

    mask: Path
    source: str

    def __call__(self, labels: LabelSet, algorithm: Algorithm) -> Mapping[Path, str]:
        """Both texts."""
        rows = [(label.index, label.name, "#{:02x}{:02x}{:02x}".format(*label.rgb)) for label in labels]
        source = f"bids:raw:{self.source}"
        model = f"Model {algorithm.name} {algorithm.version}"
        about = {
            "Sources": [source],
            "SpatialReference": source,
            "Manual": False,
            "GeneratedBy": [{"Name": "medseg", "Version": __version__, "Description": model}],
        }
        stem = own_folder(self.mask)
        return {
            stem.with_name(f"{stem.name}.tsv"): _table(("index", "name", "color"), rows),
            stem.with_name(f"{stem.name}.json"): json.dumps(about, indent=2) + "\n",
        }


def is_dataset(root: Path) -> bool:
    """Whether a folder is the root of a BIDS dataset."""
    return "BIDSVersion" in _json(root / DESCRIPTION)


def plan(
    root: Path, output: Path, output_type: str, *, channels: int = 1, options: ScanOptions = DEFAULT_OPTIONS
) -> tuple[Case, ...]:
    """Where the masks of a dataset's scans go; its other files, derivatives among them, are passed over.

    Raises:
        ConfigError: If the masks shall not be NIfTI, or a derivative would replace its own source.
        InputError: If the dataset has no scan.
    """
    if output_type != "nifti":
        raise ConfigError(f"--output-type {output_type}: a BIDS derivative holds NIfTI; leave the option away.")
    if output.resolve() == root.resolve():
        raise ConfigError(f"{output}: is the dataset itself; give a folder such as derivatives/medseg in it.")
    files = [str(file) for folder in _folders(root) for file in sorted(folder.iterdir()) if _is_scan(file)]
    if not files:
        raise InputError(f"{root}: a BIDS dataset without a scan in sub-*/{{{','.join(_DATATYPES)}}}.")
    inputs = find_inputs(files, channels=channels, apart=False, options=options)
    return tuple(_case(one, root, output) for one in inputs)


def describe(root: Path, output: Path) -> None:
    """Write what a derivative says of itself, where it does not say so already."""
    where = os.path.relpath(root.resolve(), output.resolve())
    source: dict[str, str] = {"URL": Path(where).as_posix()}
    if doi := _json(root / DESCRIPTION).get("DatasetDOI"):
        source["DOI"] = str(doi)
    about = {
        "Name": "Segmentations by medseg",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "medseg", "Version": __version__}],
        "SourceDatasets": [source],
        "DatasetLinks": {"raw": source["URL"]},
    }
    if _json(output / DESCRIPTION) != about:
        write_text(output / DESCRIPTION, json.dumps(about, indent=2) + "\n")
    if not (output / ".bidsignore").exists():
        write_text(output / ".bidsignore", _IGNORED)


def tabulate(output: Path) -> None:
    """Write the group table and a page for each subject from the results that are there."""
    subjects: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for folder in _folders(output):
        for record in sorted(folder.glob(f"*_dseg/{RECORD}")):
            name = folder.relative_to(output).parts[0]
            subjects.setdefault(name, []).append((record.parent, _json(record.parent / "statistics.json")))
    rows = [row for name in sorted(subjects) for row in _volumes(output, name, subjects[name])]
    write_text(output / "group_dseg.tsv", _table(_COLUMNS, rows))
    for name, results in subjects.items():
        write_text(output / f"{name}.html", _page(output, name, results))


def _volumes(output: Path, subject: str, results: list[tuple[Path, dict[str, Any]]]) -> Iterator[tuple[Any, ...]]:
    for folder, statistics in results:
        parts = folder.relative_to(output).parts
        session = parts[1] if parts[1].startswith("ses-") else "n/a"
        mask = f"{folder.relative_to(output).as_posix()}.nii.gz"
        for label in statistics.get("labels", ()):
            yield subject, session, mask, label["index"], label["name"], label["voxels"], label["volume_mm3"]


def _page(output: Path, subject: str, results: list[tuple[Path, dict[str, Any]]]) -> str:
    title = html.escape(subject)
    lines = [f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n<h1>{title}</h1>']
    for folder, statistics in results:
        place = html.escape(folder.relative_to(output).as_posix(), quote=True)
        lines.append(f'<h2><a href="{place}.nii.gz">{html.escape(folder.name)}.nii.gz</a></h2>')
        lines.append("<table><tr><th>label<th>name<th>volume in ml</tr>")
        for label in statistics.get("labels", ()):
            cells = (label["index"], html.escape(label["name"]), f"{label['volume_ml']:.3f}")
            lines.append(f"<tr>{''.join(f'<td>{cell}' for cell in cells)}</tr>")
        lines.append("</table>")
        if (folder / "preview.png").is_file():
            lines.append(f'<p><img src="{place}/preview.png" alt="Three slices with contours"></p>')
        lines.append(f'<p><a href="{place}/{RECORD}">How it was made</a></p>')
    return "\n".join(lines) + "\n</html>\n"


def _case(one: Input, root: Path, output: Path) -> Case:
    source = one.paths[0].relative_to(root)
    *entities, suffix = one.name.split("_")
    mask = output / source.parent / f"{'_'.join(entities)}_space-{suffix}_desc-medseg_dseg.nii.gz"
    return Case(one, mask, own_folder(mask), Sidecars(mask, source.as_posix()))


def _folders(root: Path) -> list[Path]:
    """The folders of scans, or of masks, of all subjects and sessions."""
    patterns = [f"sub-*/{way}{datatype}" for way in ("", "ses-*/") for datatype in _DATATYPES]
    return sorted(folder for pattern in patterns for folder in root.glob(pattern) if folder.is_dir())


def _is_scan(file: Path) -> bool:
    stem = next((file.name.removesuffix(ending) for ending in _ENDINGS if file.name.endswith(ending)), None)
    return stem is not None and stem.startswith("sub-") and stem.split("_")[-1] not in _NO_SCANS


def _table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

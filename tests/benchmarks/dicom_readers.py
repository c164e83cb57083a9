"""What DICOM readers make of the shared cases: right, wrong without a word, wrong with one, or refused.

    python -m venv readers && readers/bin/pip install simpleitk==2.5.7 monai==1.6.1 itk pydicom dicom2nifti==2.6.2 \
        dcm2niix==1.0.20260724 highdicom==0.28.2 nibabel
    python -m tests.benchmarks.dicom_readers --python readers/bin/python [--cases ../shared/data/fixtures/dicom]

Each reader gets each case's folder with its default settings, in a process of its own. A case is right if every
volume of truth.json came out and nothing else: 95 % of its probes lie within a quarter of a voxel of a voxel's centre
and have its value. Where there is no volume, right is to refuse.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.nursery import Found, Nursery, serve

READERS = ("medseg", "simpleitk", "monai-pydicom", "monai-itk", "dicom2nifti", "dcm2niix", "highdicom")
VERDICTS = ("right", "silently wrong", "wrong with a log line", "refused", "crashed")
LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))


def medseg(folder: Path) -> Iterator[Found]:
    from medseg.formats import read, scan

    study = scan(folder)
    for series in study.series:
        if series.format != "dicom":
            continue  # a label file that lies beside the scan
        if not series.readable:
            raise ValueError(series.findings[0].message)
        for frame in range(series.frames):
            volume = read(series, frame=frame)
            for finding in volume.findings:
                print(finding, file=sys.stderr)
            yield volume.array[0], volume.geometry.affine


def folders(folder: Path) -> Iterator[Path]:
    for path, _, files in os.walk(folder):
        if files:
            yield Path(path)


def simpleitk(folder: Path) -> Iterator[Found]:
    import SimpleITK

    found = False
    for path in folders(folder):
        for uid in SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(path)):
            names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), uid)
            image = SimpleITK.ReadImage(names)
            affine = np.eye(4)
            affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
            affine[:3, 3] = image.GetOrigin()
            found = True
            yield SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), LPS_TO_RAS @ affine
    if not found:
        raise ValueError("no series")


def monai(folder: Path, reader: str) -> Iterator[Found]:
    from monai.transforms import LoadImage

    for path in folders(folder):
        image = LoadImage(reader=reader, image_only=True)(str(path))
        array = np.asarray(image)
        for n in range(array.shape[3] if array.ndim == 4 else 1):
            yield array[..., n] if array.ndim == 4 else array, np.asarray(image.affine)


def from_nifti(folder: Path) -> Iterator[Found]:
    import nibabel

    files = sorted(folder.glob("*.nii*"))
    if not files:
        raise ValueError("nothing was written")
    for file in files:
        image = nibabel.load(file)
        array = np.asanyarray(image.dataobj)
        for n in range(array.shape[3] if array.ndim == 4 else 1):
            yield array[..., n] if array.ndim == 4 else array, image.affine


def dicom2nifti(folder: Path) -> Iterator[Found]:
    import dicom2nifti as library

    with tempfile.TemporaryDirectory() as out:
        library.convert_directory(str(folder), out, compression=False, reorient=False)
        yield from from_nifti(Path(out))


def dcm2niix(folder: Path) -> Iterator[Found]:
    with tempfile.TemporaryDirectory() as out:
        command = Path(sys.executable).with_name("dcm2niix")
        done = subprocess.run([command, "-o", out, "-d", "9", folder], capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            if line.startswith(("Warning", "Error")):
                print(line, file=sys.stderr)
        yield from from_nifti(Path(out))


def highdicom(folder: Path) -> Iterator[Found]:
    import highdicom as library
    import pydicom

    series: dict[str, list[Any]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with contextlib.suppress(pydicom.errors.InvalidDicomError):
            data = pydicom.dcmread(path)
            if "Rows" in data and data.get("Modality") != "SEG":
                series.setdefault(data.SeriesInstanceUID, []).append(data)
    for members in series.values():
        if len(members) == 1 and "PerFrameFunctionalGroupsSequence" in members[0]:
            volume = library.Image.from_dataset(members[0]).get_volume(apply_real_world_transform=False)
        else:
            volume = library.get_volume_from_series(members)
        yield volume.array, LPS_TO_RAS @ volume.affine


def volumes(reader: str, folder: Path) -> Iterator[Found]:
    """What a reader makes of a case."""
    if reader.startswith("monai"):
        return monai(folder, "PydicomReader" if reader == "monai-pydicom" else "ITKReader")
    found: Iterator[Found] = globals()[reader](folder)
    return found


def is_one_of(found: Found, truths: list[dict[str, Any]]) -> int | None:
    """Which volume of the truth this is; None if none."""
    array, affine = found
    if abs(np.linalg.det(affine)) < 1e-9:
        return None
    for number, truth in enumerate(truths):
        probes = np.array(truth["probes_lps_xyz_value"])
        world = np.c_[probes[:, :3] * (-1, -1, 1), np.ones(len(probes))]
        index = (np.linalg.inv(affine) @ world.T).T[:, :3]
        nearest = np.rint(index).astype(int)
        inside = ((nearest >= 0) & (nearest < array.shape)).all(axis=1) & (np.abs(index - nearest) < 0.25).all(axis=1)
        values = array[tuple(np.where(inside[:, None], nearest, 0).T)]
        good = inside & (np.abs(values - probes[:, 3]) <= 0.5 + 1e-3 * np.abs(probes[:, 3]))
        if good.mean() >= 0.95:
            return number
    return None


def judge(nursery: Nursery, case: Path) -> tuple[str, frozenset[str]]:
    """One of `VERDICTS`, where "wrong" does not say yet whether it was said, and the lines that were."""
    truths = json.loads((case / "truth.json").read_text())["volumes"]
    code, lines, found = nursery.read(case / "data")
    if code < 0:
        return "crashed", lines
    matches = [is_one_of(one, truths) for one in found if one[0].ndim == 3]
    values = {truth["sha256_f32"]: number for number, truth in enumerate(truths)}  # equal volumes need come out once
    wanted = set(values.values())
    got = {values[truths[number]["sha256_f32"]] for number in matches if number is not None}
    is_whole = len(matches) == len(found) and None not in matches and got == wanted
    if code:
        if not truths and not found:
            return "right", lines
        return "refused" if not found or is_whole or None not in matches else "wrong", lines
    return "right" if (truths or not found) and is_whole else "wrong", lines


def judge_all(reader: str, cases: Sequence[Path], python: str) -> dict[str, str]:
    """The verdict on each case; what a reader says about every case is no word on any of them."""
    with Nursery(python, __file__, reader) as nursery:
        judged = {case.name: judge(nursery, case) for case in cases}
    always = frozenset.intersection(*(lines for verdict, lines in judged.values() if verdict != "crashed"))
    wrong = {name: VERDICTS[2] if lines - always else VERDICTS[1] for name, (_, lines) in judged.items()}
    return {name: wrong[name] if verdict == "wrong" else verdict for name, (verdict, _) in judged.items()}


def load(reader: str) -> None:
    """Import what a reader needs."""
    if reader.startswith("monai"):
        import itk  # noqa: F401
        import monai.transforms  # noqa: F401


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", help="of the environment with the other readers")
    parser.add_argument("--cases", type=Path, default=Path(__file__).parents[3] / "shared/data/fixtures/dicom")
    parser.add_argument("--readers", nargs="*", default=READERS)
    parser.add_argument("--serve", metavar="READER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(partial(load, arguments.serve), partial(volumes, arguments.serve))
        return
    cases = sorted(path for path in arguments.cases.iterdir() if (path / "truth.json").is_file())
    table: dict[str, dict[str, str]] = {}
    for reader in arguments.readers:
        python = sys.executable if reader == "medseg" else arguments.python
        if python:
            table[reader] = judge_all(reader, cases, python)
    print("| case | " + " | ".join(table) + " |\n|---|" + "---|" * len(table))
    for case in cases:
        print(f"| {case.name} | " + " | ".join(table[reader][case.name] for reader in table) + " |")
    print("\n| reader | " + " | ".join(VERDICTS) + " |\n|---|" + "---|" * len(VERDICTS))
    for reader, verdicts in table.items():
        count = Counter(verdicts.values())
        print(f"| {reader} | " + " | ".join(str(count[verdict]) for verdict in VERDICTS) + " |")


if __name__ == "__main__":
    main()

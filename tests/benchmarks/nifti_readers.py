"""What readers make of the shared NIfTI files: right, wrong, refused or crashed.

python -m tests.benchmarks.nifti_readers --python readers/bin/python   (the environment of dicom_readers)

Right is what the header says by NIfTI's own order (sform, else qform), in mm, one volume for each time;
of a file that is not NIfTI or has five dimensions, right is to refuse.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import nibabel
import numpy as np

from tests.benchmarks.dicom_readers import LPS_TO_RAS, load
from tests.benchmarks.nursery import Found, Nursery, serve

READERS = ("medseg", "simpleitk", "monai-nibabel", "monai-itk")
VERDICTS = ("right", "wrong", "refused", "crashed")
MM_PER_UNIT = {1: 1000.0, 3: 0.001}


def medseg(path: Path) -> Iterator[Found]:
    from medseg.formats import candidate, read

    series = candidate(path)
    for frame in range(series.frames):
        volume = read(series, frame=frame)
        yield volume.array[0], volume.geometry.affine


def simpleitk(path: Path) -> Iterator[Found]:
    import SimpleITK

    image = SimpleITK.ReadImage(str(path))
    for number in range(image.GetSize()[3] if image.GetDimension() == 4 else 1):
        one = image[..., number] if image.GetDimension() == 4 else image
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(one.GetDirection(), (3, 3)) * one.GetSpacing()
        affine[:3, 3] = one.GetOrigin()
        yield SimpleITK.GetArrayFromImage(one).transpose(2, 1, 0), LPS_TO_RAS @ affine


def monai(path: Path, reader: str) -> Iterator[Found]:
    from monai.transforms import LoadImage

    image = LoadImage(reader=reader, image_only=True)(str(path))
    array = np.asarray(image)
    for number in range(array.shape[3] if array.ndim == 4 else 1):
        yield array[..., number] if array.ndim == 4 else array, np.asarray(image.affine)


def expected(path: Path) -> list[Found]:
    """What the header says; nothing where it says nothing that can be read."""
    try:
        image = nibabel.load(path)
    except nibabel.filebasedimages.ImageFileError:
        return []
    if image.ndim > 4:
        return []
    affine = np.diag([MM_PER_UNIT.get(int(image.header["xyzt_units"]) & 7, 1.0)] * 3 + [1.0]) @ image.affine
    array = image.get_fdata(dtype=np.float32)
    return [(array[..., n], affine) for n in range(array.shape[3])] if array.ndim == 4 else [(array, affine)]


def volumes(reader: str, path: Path) -> Iterator[Found]:
    """What a reader makes of a file."""
    if reader.startswith("monai"):
        return monai(path, "NibabelReader" if reader == "monai-nibabel" else "ITKReader")
    found: Iterator[Found] = globals()[reader](path)
    return found


def judge(nursery: Nursery, path: Path) -> str:
    truth = expected(path)
    code, _, found = nursery.read(path)
    if code:
        return "crashed" if code < 0 else "refused" if truth else "right"
    is_right = bool(truth) and len(found) == len(truth) and all(map(is_same, found, truth))
    return "right" if is_right else "wrong"


def is_same(found: Found, truth: Found) -> bool:
    return (
        found[0].shape == truth[0].shape
        and np.allclose(found[0], truth[0], rtol=1e-4, atol=1e-4, equal_nan=True)
        and np.allclose(found[1], truth[1], rtol=1e-3, atol=1e-2)
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", help="of the environment with the other readers")
    folder = Path(__file__).parents[3] / "shared/data/fixtures/nifti/real_oddities/data"
    parser.add_argument("--files", type=Path, default=folder)
    parser.add_argument("--serve", metavar="READER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(partial(load, arguments.serve), partial(volumes, arguments.serve))
        return
    paths = [path for path in sorted(arguments.files.iterdir()) if ".hdr" not in path.name]  # of a pair one is read
    table = {}
    for reader in READERS:
        python = sys.executable if reader == "medseg" else arguments.python
        if python:
            with Nursery(python, __file__, reader) as nursery:
                table[reader] = [judge(nursery, path) for path in paths]
    print("| file | " + " | ".join(table) + " |\n|---|" + "---|" * len(table))
    for number, path in enumerate(paths):
        print(f"| {path.name} | " + " | ".join(verdicts[number] for verdicts in table.values()) + " |")
    print("\n| reader | " + " | ".join(VERDICTS) + " |\n|---|" + "---|" * len(VERDICTS))
    for reader, verdicts in table.items():
        count = Counter(verdicts)
        print(f"| {reader} | " + " | ".join(str(count[verdict]) for verdict in VERDICTS) + " |")


if __name__ == "__main__":
    main()

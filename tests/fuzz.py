"""Hostile copies of small sound files, and what a reader may make of them.

For a night: python -m tests.fuzz --seconds 28800
"""

from __future__ import annotations

import argparse
import gzip
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from medseg.errors import MedsegError
from medseg.formats import OUTPUT_TYPES, needs_grid, read, read_segmentation, scan, write_onto_source
from medseg.geometry import Geometry
from medseg.volume import Segmentation
from tests.dicom_files import COLUMN, COLUMN_SPACING, NORMAL, ORIGIN, ROW, ROW_SPACING, STEP, VOXELS, make, save
from tests.enhanced_files import enhanced, frame

MOST_SECONDS = 20  # for one file; a hang is a failure
_LPS = np.column_stack((ROW * COLUMN_SPACING, COLUMN * ROW_SPACING, NORMAL * STEP, ORIGIN))
ONTO = Geometry((5, 6, 4), np.vstack((np.diag((-1.0, -1.0, 1.0)) @ _LPS, (0, 0, 0, 1))))  # where labels are drawn


def corpus(folder: Path) -> dict[str, Path]:
    """A small sound file for every reader, by its kind."""
    folder.mkdir(exist_ok=True)
    made: dict[str, Path] = {}
    for name, syntax in (
        ("plain", None),
        ("implicit", ImplicitVRLittleEndian),
        ("deflated", DeflatedExplicitVRLittleEndian),
        ("rle", RLELossless),
    ):
        one = make(0)
        if syntax == RLELossless:
            one.compress(RLELossless)
        elif syntax:
            one.file_meta.TransferSyntaxUID = syntax
        made[name] = next(save(folder / name, one).iterdir())
    made["enhanced"] = next(save(folder / "enhanced", enhanced([frame(k) for k in range(4)], VOXELS)).iterdir())
    image = SimpleITK.GetImageFromArray(VOXELS)
    for ending in ("nrrd", "mha"):
        for compressed in (False, True):
            path = folder / f"{compressed}.{ending}"
            SimpleITK.WriteImage(image, str(path), useCompression=compressed)
            made[f"{ending} {compressed}"] = path
    nib.Nifti1Image(VOXELS.astype(np.int16), np.eye(4)).to_filename(folder / "scan.nii")
    (folder / "scan.nii.gz").write_bytes(gzip.compress((folder / "scan.nii").read_bytes()))
    made |= {"nifti": folder / "scan.nii", "nifti gz": folder / "scan.nii.gz"}
    for ending in ("png", "tif", "jpg"):
        made[ending] = folder / f"picture.{ending}"
        Image.fromarray(VOXELS[0].astype(np.uint8)).save(made[ending])
    made["zip"] = folder / "study.zip"
    with zipfile.ZipFile(made["zip"], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(made["plain"], "plain.dcm")
    made["tar"] = folder / "study.tar"
    with tarfile.open(made["tar"], "w") as tar:
        tar.add(made["plain"], "plain.dcm")
    files = sorted(save(folder / "labelled", *(make(k) for k in range(4))).iterdir())
    labels = Segmentation((VOXELS.transpose(2, 1, 0) > 2000).astype(np.uint8), read(folder / "labelled").geometry)
    for output_type in OUTPUT_TYPES:
        made[output_type] = folder / f"{output_type}.dcm"
        write_onto_source(labels, made[output_type], output_type, files)
    return made


def hostile(content: bytes, seed: int) -> bytes:
    """A copy with bytes flipped, set to extremes, cut, doubled or moved."""
    rng = np.random.default_rng(seed)
    copy = bytearray(content)
    head = min(len(copy), 2048)
    for _ in range(1 + seed % 8):
        at = int(rng.integers(head if rng.random() < 0.8 else len(copy)))
        match int(rng.integers(5)):
            case 0:
                copy[at] ^= 1 << int(rng.integers(8))
            case 1:
                copy[at : at + 4] = b"\xff\xff\xff\xff"[: len(copy[at : at + 4])]
            case 2:
                copy[at : at + 4] = b"\0\0\0\x80"[: len(copy[at : at + 4])]
            case 3:
                copy[at] = int(rng.integers(256))
            case _:
                stop = at + int(rng.integers(1, 32))
                copy[at:at] = copy[at:stop]
    if seed % 7 == 0:
        del copy[int(rng.integers(len(copy))) :]
    return bytes(copy)


def attempt(path: Path) -> str:
    """Read a file; the message of the refusal, or "read".

    Raises:
        AssertionError: If a volume is not sound, the message breaks its line, or it takes too long.
    """
    since = time.monotonic()
    try:
        scan(path)
        found = read_segmentation(path, onto=ONTO) if needs_grid(path) else read(path)
    except MedsegError as error:
        outcome = str(error)
        assert outcome.isprintable(), outcome
    else:
        outcome = "read"
        assert np.isfinite(found.geometry.affine).all()
        assert np.isfinite(found.array).all()
        assert found.array.shape[-3:] == found.geometry.shape
    took = time.monotonic() - since
    assert took < MOST_SECONDS, f"{took:.0f} s"
    return outcome


def main() -> None:
    """Attack every reader until the time is over; the seed of a failure is in its file's name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    until, seed, count = time.monotonic() + arguments.seconds, arguments.seed, 0
    with tempfile.TemporaryDirectory() as folder:
        files = corpus(Path(folder) / "corpus")
        while time.monotonic() < until:
            for name, path in files.items():
                victim = Path(folder) / f"{seed}{path.suffix}"
                victim.write_bytes(hostile(path.read_bytes(), seed))
                try:
                    attempt(victim)
                except BaseException:
                    print(f"{name}: seed {seed}")
                    raise
                victim.unlink()
                count += 1
            seed += 1
    print(f"{count} files, seeds {arguments.seed} to {seed - 1}: none crashed")


if __name__ == "__main__":
    main()

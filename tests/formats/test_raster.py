from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.errors import InputError
from medseg.formats import read, read_segmentation, scan
from tests.dicom_files import series

GREY = np.random.default_rng(0).integers(0, 255, (6, 5), dtype=np.uint8)  # (rows, columns)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_picture_is_a_volume_of_one_slice(ending: str, dtype: type, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{ending}"
    Image.fromarray((GREY.astype(dtype) * (257 if dtype is np.uint16 else 1)).astype(dtype)).save(path)
    volume = read(path)
    assert volume.array.shape == (1, 5, 6, 1)
    np.testing.assert_array_equal(volume.array[0, ..., 0].T, GREY.astype(int) * (257 if dtype is np.uint16 else 1))
    assert [finding.code for finding in volume.findings] == ["no-spacing"]


def test_colours_become_three_channels(tmp_path: Path) -> None:
    colours = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)
    Image.fromarray(colours).save(tmp_path / "photo.png")
    np.testing.assert_array_equal(read(tmp_path / "photo.png").array[..., 0], colours.transpose(2, 1, 0))
    Image.fromarray(colours).save(tmp_path / "photo.jpg")
    assert read(tmp_path / "photo.jpg").array.shape == (3, 5, 6, 1)


def test_palette_picture_holds_labels(tmp_path: Path) -> None:
    picture = Image.fromarray(GREY % 4, mode="P")
    picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    picture.save(tmp_path / "seg.png")
    np.testing.assert_array_equal(read_segmentation(tmp_path / "seg.png").array[..., 0].T, GREY % 4)


def test_picture_beside_a_scan_is_left_out(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    Image.fromarray(GREY).save(folder / "preview.png")
    study = scan(folder)
    assert [study.left_out(one) for one in study.series] == ["", "a picture"]
    assert read(folder).modality == "CT"


def test_damaged_large_and_many_paged_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(GREY).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"picture\.png: the picture is damaged"):
        read(path)
    pages = [Image.fromarray(GREY)] * 3
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=r"pages\.tif: several pictures in one file"):
        read(tmp_path / "pages.tif")
    monkeypatch.setattr("medseg.formats.raster._MOST_PIXELS", 20)
    Image.fromarray(GREY).save(tmp_path / "large.png")
    with pytest.raises(InputError, match="a picture of 5 × 6 pixels, more than is read"):
        read(tmp_path / "large.png")

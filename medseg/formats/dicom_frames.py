"""Files that hold many planes: enhanced and legacy-converted images (PS3.3, C.7.6.16), and Siemens' mosaics."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from medseg.formats.dicom_fields import SIEMENS_TILES, numbers, text
from medseg.formats.dicom_header import Header, guarded, read_header
from medseg.formats.dicom_slice import (
    FRAME_KEYS,
    Slice,
    acquired,
    b_value,
    check_room,
    frame_keys,
    pixel_trouble,
    plain_slice,
    stored_as,
)

_CSA = 0x00291010  # Siemens: the header in which the slice normal is found
_MOST_TILES = 4096


def read_slices(path: Path, *, limited: bool = False) -> tuple[Slice, ...]:
    """The planes of a file, without their pixels; `limited` as in `read_header`.

    Raises:
        SkippedFileError: If the file is not an image, or is damaged; the message is the reason alone, without path.
        LargeHeaderError: If the header is large and the process is not limited.
    """
    with guarded():
        header = read_header(path, limited=limited)
        if "PerFrameFunctionalGroupsSequence" in header.data:
            return _frames(header)
        one = plain_slice(header)
        if "MOSAIC" in one.kind[1].upper() or SIEMENS_TILES in header.data:
            return _tiles(header, one)
        return (one,)


def _frames(header: Header) -> tuple[Slice, ...]:
    data, stored = header.data, stored_as(header)
    check_room(header, stored)
    per_frame = list(data.PerFrameFunctionalGroupsSequence)
    shared = [*data.get("SharedFunctionalGroupsSequence", [])][:1]
    whole = replace(plain_slice(header), trouble="")
    if len(per_frame) != stored.frames:
        what = f"a multi-frame image of {stored.frames} frames that describes {len(per_frame)}"
        return (replace(whole, trouble=f"{what}; export it again"),)
    return tuple(_frame(header, whole, number, [own, *shared]) for number, own in enumerate(per_frame))


def _frame(header: Header, whole: Slice, number: int, groups: Sequence[Dataset]) -> Slice:
    """Frame `number`; what it says itself counts before what all frames share, and that before the file's own."""
    flat = Dataset()
    for group in (*reversed(groups),):
        for element in group:
            if element.VR == "SQ" and not element.tag.is_private and len(element.value) == 1:
                flat.update(element.value[0])
    rescaled = replace(header, data=_merged(header.data, flat))
    slope, intercept = numbers(flat, "RescaleSlope", 1), numbers(flat, "RescaleIntercept", 1)
    image_type = text(flat, "FrameType") or whole.kind[1]
    kernel = text(flat, "ConvolutionKernel") or whole.kind[2]
    component = text(flat, "ComplexImageComponent") or whole.kind[6]
    kind = (whole.kind[0], image_type, kernel, whole.kind[3], text(flat, "RescaleType"), whole.kind[5], component)
    echo = numbers(flat, "EffectiveEchoTime", 1) or numbers(flat, "EchoTime", 1)
    return replace(
        whole,
        frame=number,
        kind=kind,
        contrast=((*echo, whole.contrast[0])[0], _enhanced_b_value(flat, whole)),
        keys=_enhanced_keys(flat),
        number=number,
        acquired=(text(flat, "FrameAcquisitionDateTime"), *acquired(flat)),
        position_lps=numbers(flat, "ImagePositionPatient", 3),
        orientation_lps=numbers(flat, "ImageOrientationPatient", 6),
        pixel_spacing_mm=numbers(flat, "PixelSpacing", 2),
        thickness_mm=(*numbers(flat, "SliceThickness", 1), 0.0)[0],
        slope=(*slope, whole.slope)[0],
        intercept=(*intercept, whole.intercept)[0],
        trouble=pixel_trouble(rescaled, whole.stored),
    )


def _merged(whole: Dataset, flat: Dataset) -> Dataset:
    """The elements on which `pixel_trouble` decides, the frame's own before the file's."""
    merged = Dataset()
    for keyword in ("SamplesPerPixel", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"):
        for source in (flat, whole):
            if keyword in source:
                merged[keyword] = source[keyword]
                break
    return merged


def _enhanced_b_value(flat: Dataset, whole: Slice) -> float | None:
    own = b_value(flat)
    return whole.contrast[1] if own is None else own


def _enhanced_keys(flat: Dataset) -> tuple[tuple[float, ...] | None, ...]:
    keys = dict(zip(FRAME_KEYS, frame_keys(flat), strict=True))
    for key, other in (
        ("TemporalPositionIdentifier", "TemporalPositionIndex"),
        ("TriggerTime", "NominalCardiacTriggerDelayTime"),
    ):
        keys[key] = keys[key] or numbers(flat, other, 1) or None
    return tuple(keys.values())


def _tiles(header: Header, picture: Slice) -> tuple[Slice, ...]:
    """The planes of a mosaic: tiles row by row in one picture, with as many columns as rows.

    The header places the picture as if it were one large plane: its centre is that of the first tile.
    """
    count = int((*numbers(header.data, SIEMENS_TILES, 1), 0)[0])
    across = math.ceil(math.sqrt(count)) if 0 < count <= _MOST_TILES else 0
    normal, csa_count, step = _csa(header.data)
    count_agrees = csa_count in (None, count)
    if not across or not count_agrees or picture.rows % across or picture.columns % across or normal is None:
        text_ = "a mosaic of slices in one picture, without a header that tells where they lie; convert it to NIfTI"
        return (replace(picture, trouble=picture.trouble or text_),)
    if not (picture.position_lps and picture.orientation_lps and picture.pixel_spacing_mm) or not step:
        return (replace(picture, trouble=picture.trouble or "a mosaic without position or spacing; convert it"),)
    rows, columns = picture.rows // across, picture.columns // across
    along_row, along_column = np.reshape(picture.orientation_lps, (2, 3))
    between_rows, between_columns = picture.pixel_spacing_mm
    corner = np.array(picture.position_lps)
    corner += along_row * between_columns * (picture.columns - columns) / 2
    corner += along_column * between_rows * (picture.rows - rows) / 2
    return tuple(
        replace(
            picture,
            corner=(k // across * rows, k % across * columns),
            rows=rows,
            columns=columns,
            position_lps=tuple((corner + k * step * normal).tolist()),
        )
        for k in range(count)
    )


def _csa(data: Dataset) -> tuple[np.ndarray | None, int | None, float | None]:
    """Slice normal, number of tiles and distance of slices in Siemens' CSA header; None where it does not say."""
    element = data.get(_CSA)
    content = bytes(element.value) if element is not None and isinstance(element.value, bytes) else b""
    normal = _csa_numbers(content, b"SliceNormalVector")
    count = _csa_numbers(content, b"NumberOfImagesInMosaic")
    step = _csa_numbers(content, b"SpacingBetweenSlices")
    spacing = numbers(data, "SpacingBetweenSlices", 1)
    is_normal = len(normal) == 3 and abs(math.hypot(*normal) - 1) < 1e-3
    return (
        np.array(normal) if is_normal else None,
        int(count[0]) if count else None,
        (*step, *spacing, None)[0],
    )


def _csa_numbers(content: bytes, name: bytes) -> tuple[float, ...]:
    """The numbers of one field of a CSA2 header: name (64 bytes), vm, vr, syngo type, items, 77; then the items."""
    at = content.find(name + b"\0")
    if not content.startswith(b"SV10") or at < 16 or len(content) < at + 84:
        return ()
    count, items = struct.unpack_from("<i", content, at + 64)[0], struct.unpack_from("<i", content, at + 76)[0]
    at += 84
    found = []
    for _ in range(min(items, count, 16)):
        if len(content) < at + 16:
            return ()
        length = struct.unpack_from("<i", content, at + 4)[0]
        at += 16
        if not 0 <= length <= 64:
            return ()
        try:
            found.append(float(content[at : at + length].rstrip(b"\0 ")))
        except ValueError:
            return ()
        at += (length + 3) // 4 * 4
    return tuple(found) if np.isfinite(found).all() else ()

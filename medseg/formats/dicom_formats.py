"""The DICOM formats as the list of formats holds them: how their files are told from others, and no more.

What reads and writes them is loaded when there is such a file: pydicom takes longer to load than a small scan to
segment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from medseg.formats.base import Format, Writer
from medseg.study import Finding, Study
from medseg.volume import Segmentation, Volume

F = TypeVar("F", bound=Callable[..., Any])

_SOP_CLASS = re.compile(
    rb"(?:\x02\0\x02\0|\x08\0\x16\0)(?:UI..|....)([0-9.]+)", re.DOTALL
)  # (0002,0002) or (0008,0016), explicit or implicit VR
_SEG = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
_DICOMDIR = "1.2.840.10008.1.3.10"


def is_image(path: Path, head: bytes) -> bool:
    """Whether a file is DICOM by its first bytes, with its preamble or beginning with the data set, or by its name."""
    starts_with_group = head[:4] in (b"\x02\0\0\0", b"\x08\0\0\0", b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x16\0")
    looks_like_it = head[128:132] == b"DICM" or (starts_with_group and len(head) > 132)
    return looks_like_it or path.suffix.lower() in (".dcm", ".ima") or path.name == "DICOMDIR"


def is_seg(path: Path, head: bytes) -> bool:
    """Whether a file is a DICOM SEG, by the SOP class that its first bytes name."""
    return _sop_class(head) in _SEG


def is_rtstruct(path: Path, head: bytes) -> bool:
    """Whether a file is an RTSTRUCT, by the SOP class that its first bytes name."""
    return _sop_class(head) == _RTSTRUCT


def is_index(path: Path, head: bytes) -> bool:
    """Whether a file is a DICOMDIR, by the class that its meta header names."""
    return head[128:132] == b"DICM" and _DICOMDIR.encode() in head and path.is_file()


def _sop_class(head: bytes) -> str:
    match = _SOP_CLASS.search(head)
    return match[1].decode() if match else ""


def _images() -> Format:
    from medseg.formats.dicom import FORMAT  # noqa: PLC0415 - loads pydicom

    return FORMAT


def _seg() -> Format:
    from medseg.formats.dicom_seg import FORMAT  # noqa: PLC0415 - loads pydicom

    return FORMAT


def _rtstruct() -> Format:
    from medseg.formats.rtstruct import FORMAT  # noqa: PLC0415 - loads pydicom

    return FORMAT


def _deferred(
    name: str,
    recognises: Callable[[Path, bytes], bool],
    loaded: Callable[[], Format],
    *,
    labels: bool = False,
    outputs: Sequence[str] = (),
) -> Format:
    """A format that loads what it is made of when one of its functions is called.

    Args:
        name: The format's.
        recognises: Whether a file is this format's.
        loaded: Gives the format itself.
        labels: Whether it holds labels alone.
        outputs: Types of output that it writes.
    """

    def scan(*what: Any) -> Study:
        return loaded().scan(*what)

    def read(*what: Any) -> Volume:
        return loaded().read(*what)

    def read_segmentation(*what: Any) -> Segmentation:
        return _there(loaded().read_segmentation)(*what)

    def read_onto(*what: Any) -> Segmentation:
        return _there(loaded().read_onto)(*what)

    def writer(output: str) -> Writer:
        def write(*what: Any) -> tuple[Finding, ...]:
            return loaded().outputs[output](*what)

        return write

    if not labels:
        return Format(name, recognises, scan, read)
    writers = {output: writer(output) for output in outputs}
    return Format(name, recognises, scan, read, read_segmentation, read_onto=read_onto, outputs=writers)


def _there(function: F | None) -> F:
    assert function is not None  # of a format that holds labels
    return function


DICOM = _deferred("dicom", is_image, _images)
DICOM_SEG = _deferred("dicom-seg", is_seg, _seg, labels=True, outputs=("dicom-seg", "dicom-seg-binary"))
DICOM_RTSTRUCT = _deferred("dicom-rtstruct", is_rtstruct, _rtstruct, labels=True, outputs=("dicom-rtstruct",))

"""What the record of a case says of the scan, the model and the libraries."""

from __future__ import annotations

import platform
from importlib.metadata import version

from medseg.choice import Choice
from medseg.inputs import Input
from medseg.ledger import Scan, UsedModel
from medseg.volume import Volume

_LIBRARIES = ("numpy", "torch", "monai", "nibabel", "pydicom", "highdicom")


def versions() -> dict[str, str]:
    """Of Python and of the libraries that make the results."""
    return {"python": platform.python_version()} | {library: version(library) for library in _LIBRARIES}


def described(scan: Input, volume: Volume, sha256: str, stamp: str | None) -> Scan:
    """A scan, by what does not tell who the patient is."""
    geometry = volume.geometry
    return Scan(
        name=scan.series[0].hide(scan.paths[0].name) if len(scan.paths) == 1 else scan.name,
        files=len(scan.paths),
        sha256=sha256,
        stamp=stamp,
        shape=geometry.shape,
        spacing_mm=geometry.spacing_mm,
        orientation=geometry.orientation,
        modality=volume.modality,
    )


def used(choice: Choice) -> UsedModel:
    """The model that was chosen."""
    card = choice.info.card
    return UsedModel(
        name=card.name, version=card.version, title=card.title, licence=card.licence, sha256=choice.info.sha256
    )

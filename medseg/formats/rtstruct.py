"""DICOM RT Structure Set: closed contours, which become voxels on the grid of a scan."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Never

import numpy as np

from medseg.errors import GeometryError, InputError
from medseg.formats.base import Format, Onto, each_for_itself, shown
from medseg.formats.dicom_derived import tie
from medseg.formats.dicom_formats import is_rtstruct
from medseg.formats.dicom_limits import bounded
from medseg.formats.dicom_source import Source, read_source
from medseg.formats.planes import Planes, Vector, layers
from medseg.formats.rtstruct_read import Structures, rasterised, read_structures
from medseg.formats.rtstruct_write import write_rtstruct
from medseg.geometry import Geometry
from medseg.study import Series
from medseg.volume import Segmentation

_NAME = "dicom-rtstruct"


def read(series: Series, frame: int | None) -> Never:
    """Refuse: there are no intensities."""
    raise InputError(f"{shown(series.paths[0])}: an RT structure set holds contours, not a scan; give the series.")


def read_onto(series: Series, onto: Onto) -> Segmentation:
    """Draw the contours onto a grid whose planes, along one axis, are those of the contours."""
    path = series.paths[0]
    if onto.geometry is None:
        text = "contours have no grid of voxels; give the series that they were drawn on (medseg convert --source)"
        raise InputError(f"{shown(path)}: {text}.")
    source = read_source(onto.source) if onto.source else None
    return bounded(path, partial(_drawn, path, onto.geometry, onto.names, source))


def read_segmentation(series: Series) -> Segmentation:
    """Refuse: a grid is needed."""
    return read_onto(series, Onto())


def _series(path: Path) -> Series:
    bounded(path, partial(read_structures, path))
    return Series((path,), _NAME, modality="RTSTRUCT")


FORMAT = Format(
    _NAME,
    is_rtstruct,
    each_for_itself(_NAME, _series),
    read,
    read_segmentation,
    read_onto=read_onto,
    outputs={"dicom-rtstruct": write_rtstruct},
)


def _drawn(path: Path, geometry: Geometry, names: tuple[str, ...], source: Source | None) -> Segmentation:
    structures = read_structures(path)
    dangling = tie(path, source, structures.instances, structures.frame_of_reference)
    for axis, seen in layers(geometry, _normal(structures)):
        drawn = rasterised(structures, Planes.of(seen), path, names)
        if not drawn.labels.any() and any(structures.contours.values()):
            raise GeometryError(
                f"{shown(path)}: no contour encloses a voxel of the grid ({geometry}); give the series that the"
                " contours were drawn on."
            )
        array = np.moveaxis(drawn.labels.transpose(2, 1, 0), 2, axis)
        return Segmentation(array, geometry, drawn.names, (*drawn.findings, *dangling))
    raise GeometryError(
        f"{shown(path)}: the contours are not parallel to the planes of the grid ({geometry}); give the series"
        " that they were drawn on."
    )


def _normal(structures: Structures) -> Vector:
    """Unit vector perpendicular to the largest contour: the smallest ones are too short to tell."""
    contours = [one.points_mm for several in structures.contours.values() for one in several]
    # The sum over the edges of position × next position is twice the enclosed area, along the normal.
    areas = [np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0) for points in contours]
    largest = max(areas, key=lambda area: float(np.linalg.norm(area)), default=np.zeros(3))
    size = float(np.linalg.norm(largest))
    return np.asarray(largest / size) if size > 0 else np.array((0.0, 0.0, 1.0))

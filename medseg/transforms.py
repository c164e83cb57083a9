"""MONAI's transforms as scans are prepared by them: the same numbers, plane by plane, without loading MONAI.

Loading MONAI takes longer than segmenting a small scan, and its resampling holds the scan several times over. What
`medseg.prepare.steps` names is therefore done here; `tests/test_transforms.py` holds every one against MONAI's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medseg.orientations import change, orientation_named, orientation_of, turned, unturned
from medseg.resources import cores

Voxels: TypeAlias = NDArray[Any]
Affine: TypeAlias = NDArray[np.float64]
# (C, I, J, K) of any type and strides, and the affine of its grid. What may not be changed in place is read-only.
Image: TypeAlias = tuple[Voxels, Affine]

_SAME = 1e-3  # MONAI's tolerance for two affines
_ROUNDING = 1e-6  # voxels
_PLANES = 16  # that are interpolated before they are written, so that whole lines of memory are
_MOST_THREADS = 8  # more would wait for the memory


def crop_foreground(image: Image, *, select_fn: Callable[[Any], Any]) -> Image:
    """Crop to the box of what is chosen in any channel."""
    array, affine = image
    box = []
    chosen: NDArray[np.bool_] = np.any(select_fn(array), axis=0)
    for axis in range(3):
        places = np.flatnonzero(np.any(chosen, axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    return array[:, *box], moved


def orientation(image: Image, *, axcodes: str, labels: None) -> Image:
    """Flip and swap axes until their codes are these; a view."""
    del labels  # of named axes, which are not used
    array, affine = image
    by = change(orientation_of(affine), orientation_named(axcodes))
    return turned(array, by), affine @ unturned(by, array.shape[1:])


def spacing(image: Image, *, pixdim: Sequence[float], mode: str, padding_mode: str, dtype: str) -> Image:
    """Interpolate linearly onto a grid of this spacing that begins with the same voxel; the edge is held.

    Raises:
        NotSeparableError: If the axes of the new grid are not parallel to the old ones, as of a tilted gantry.
    """
    assert (mode, padding_mode, dtype) == ("bilinear", "border", "float32")
    array, affine = image
    axes, lengths = affine[:3, :3], np.linalg.norm(affine[:3, :3], axis=0)
    # A tilted grid becomes a rectangular one, which lies across it.
    if not np.allclose((axes / lengths).T @ (axes / lengths), np.eye(3), atol=1e-5):
        raise NotSeparableError
    new, shape = _zoomed(array.shape[1:], affine, np.where(np.asarray(pixdim) > 0, pixdim, lengths))
    factors = np.linalg.norm(new[:3, :3], axis=0) / lengths
    if tuple(shape) == array.shape[1:] and np.allclose(affine, new, atol=_SAME):
        return image
    positions = [np.minimum(np.arange(n) * f, m - 1) for n, f, m in zip(shape, factors, array.shape[1:], strict=True)]
    result = np.empty((len(array), *shape), dtype=np.float32)
    lines = [_between(along, n) for along, n in zip(positions, array.shape[1:], strict=True)]
    with ThreadPoolExecutor(min(cores(), _MOST_THREADS), thread_name_prefix="prepare") as pool:
        for channel, target in zip(array, result, strict=True):
            list(pool.map(partial(_interpolate, channel, lines, target), range(0, shape[2], _PLANES)))
    return result, new


def _zoomed(shape: Sequence[int], affine: Affine, lengths: NDArray[np.float64]) -> tuple[Affine, list[int]]:
    """The grid of other spacing, and how many voxels of it there are.

    Half a voxel is rounded as its last bits say, so the sums are MONAI's own: a grid of another size is another scan.
    """
    stretch = np.linalg.cholesky(affine[:3, :3].T @ affine[:3, :3]).T
    new = np.eye(4)
    new[:3, :3] = affine[:3, :3] @ np.linalg.inv(stretch) @ np.diag(np.sign(np.diag(stretch)) * lengths)
    corners = np.asarray(np.meshgrid(*[(0.0, n - 1.0) for n in shape], indexing="ij")).reshape(3, -1)
    there = np.linalg.solve(new, affine) @ np.concatenate((corners, np.ones_like(corners[:1])))
    new[:3, 3] = affine[:3, 3]
    return new, np.round(np.ptp(there[:3] / there[3], axis=1) + 1.0).astype(int).tolist()


class NotSeparableError(ValueError):
    """A grid cannot be interpolated axis by axis."""


_Line: TypeAlias = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]


def _between(positions: NDArray[np.float64], length: int) -> _Line:
    low = np.floor(positions + _ROUNDING).astype(np.intp)
    share = np.maximum(positions - low, 0).astype(np.float32)
    return low, np.minimum(low + 1, length - 1), share


def _interpolate(channel: Voxels, lines: Sequence[_Line], target: NDArray[np.float32], begin: int) -> None:
    """Some planes along K, from `begin` on, of one channel (I, J, K); the last axis first: it leaves planes."""
    planes = []
    for low, high, share in zip(*(line[begin : begin + _PLANES] for line in lines[2]), strict=True):
        plane = channel[:, :, low].T.astype(np.float32)  # J first: I mostly varies fastest in memory
        if share > 0:
            plane += share * (channel[:, :, high].T - plane)
        plane = _between_rows(np.ascontiguousarray(plane), lines[1])
        planes.append(_between_rows(np.ascontiguousarray(plane.T), lines[0]))
    target[:, :, begin : begin + _PLANES] = np.stack(planes).transpose(1, 2, 0)


def _between_rows(plane: NDArray[np.float32], line: _Line) -> NDArray[np.float32]:
    if len(plane) == 1:
        return plane
    low, high, share = line
    below, above = plane[low], plane[high]
    above -= below
    above *= share[:, None]
    above += below
    return above


def scale_intensity_range(image: Image, *, a_min: float, a_max: float, b_min: float, b_max: float, clip: bool) -> Image:
    """Map [a_min, a_max] to [b_min, b_max]."""
    array = _floats(image[0])
    array -= np.float32(a_min)
    array /= np.float32(a_max - a_min)
    if (b_min, b_max) != (0.0, 1.0):
        array *= np.float32(b_max - b_min)
        array += np.float32(b_min)
    if clip:
        np.clip(array, np.float32(b_min), np.float32(b_max), out=array)
    return array, image[1]


def scale_intensity_range_percentiles(
    image: Image, *, lower: float, upper: float, channel_wise: bool, **window: Any
) -> Image:
    """Map the window between two percentiles of each channel."""
    assert channel_wise
    array = _floats(image[0])
    for channel in array:
        low, high = (float(found) for found in np.percentile(channel, (lower, upper)))
        if low == high:  # MONAI only shifts where there is no window
            np.add(channel, np.float32(window["b_min"] - low), out=channel)
        else:
            scale_intensity_range((channel, image[1]), a_min=low, a_max=high, **window)
    return array, image[1]


def normalize_intensity(
    image: Image,
    *,
    channel_wise: bool,
    nonzero: bool = False,
    subtrahend: Sequence[float] | None = None,
    divisor: Sequence[float] | None = None,
) -> Image:
    """Subtract and divide each channel: by its mean and standard deviation where nothing else is given."""
    assert channel_wise
    array = _floats(image[0])
    for number, channel in enumerate(array):
        chosen: Any = channel != 0 if nonzero else slice(None)
        values = channel[chosen]
        if values.size == 0:
            continue
        if subtrahend is None or divisor is None:
            mean, deviation = _moments(values.reshape(len(values), -1))
        else:
            mean, deviation = subtrahend[number], divisor[number]
        channel[chosen] = (values - np.float32(mean)) / np.float32(deviation or 1.0)
    return array, image[1]


def function(image: Image, *, func: Callable[[Any], Any]) -> Image:
    """Apply a function of the voxels."""
    return func(image[0]), image[1]


def _moments(values: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation in double precision, row by row, so that no second volume of doubles is made."""
    mean = sum(float(row.sum(dtype=np.float64)) for row in values) / values.size
    variance = sum(float(np.square(row - mean, dtype=np.float64).sum()) for row in values) / values.size
    return mean, variance**0.5


def _floats(array: Voxels) -> NDArray[np.float32]:
    """In single precision, in the order of the axes, and not the caller's own voxels."""
    own = array.flags.writeable and array.flags.c_contiguous and array.dtype == np.float32
    return array if own else np.array(array, np.float32, order="C")


TRANSFORMS: dict[str, Callable[..., Image]] = {
    "CropForeground": crop_foreground,
    "Lambda": function,
    "NormalizeIntensity": normalize_intensity,
    "Orientation": orientation,
    "ScaleIntensityRange": scale_intensity_range,
    "ScaleIntensityRangePercentiles": scale_intensity_range_percentiles,
    "Spacing": spacing,
}

"""Images from label maps: Billot et al., Medical Image Analysis 86, 102789 (2023), section 3.

Each image is drawn anew: the map is turned, scaled and bent; every structure gets an intensity of its own; then come
blur and thick slices, a bias field, noise and a gamma curve. A network trained on them has met so many contrasts and
resolutions that a real scan is one more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch.nn.functional import interpolate

from medseg.geometry import Shape
from medseg.training_settings import Synthesis


@dataclass(frozen=True, eq=False)
class Place:
    """What piece of a map is wanted.

    Attributes:
        shape: Its voxels (I, J, K).
        spacing_mm: Their size.
        centre: Voxel of the map in its middle.
    """

    shape: Shape
    spacing_mm: Sequence[float]
    centre: NDArray[np.float64]


def deform(
    structures: NDArray[np.uint8],
    own_mm: Sequence[float],
    place: Place,
    settings: Synthesis,
    random: np.random.Generator,
) -> NDArray[np.uint8]:
    """A turned, scaled and bent piece of a map, each voxel that of the map's voxel nearest to where it comes from.

    Args:
        structures: The map (I, J, K); beyond it lies empty space, 0.
        own_mm: Size of its voxels.
        place: Which piece.
        settings: Ranges.
        random: Source of all chance.
    """
    shape = place.shape
    matrix = _rotation(random.uniform(-1, 1, 3) * math.radians(settings.rotation_deg))
    matrix = matrix @ np.diag(random.uniform(1 - settings.scaling, 1 + settings.scaling, 3))
    matrix = np.diag(1 / np.array(own_mm)) @ matrix @ np.diag(place.spacing_mm)
    points = [max(4, round(n * mm / settings.control_mm) + 3) for n, mm in zip(shape, place.spacing_mm, strict=True)]
    bend = smooth_field(random.normal(0, settings.deformation_mm, (3, *points)), shape)
    steps = [np.arange(n, dtype=np.float32) - (n - 1) / 2 for n in shape]
    inside = np.ones(shape, dtype=bool)
    flat = np.zeros(shape, dtype=np.int32)
    for axis, length in enumerate(structures.shape):
        i, j, k = (
            (matrix[axis, other] * steps[other]).astype(np.float32).reshape([-1 if n == other else 1 for n in range(3)])
            for other in range(3)
        )
        straight = i + j + k + np.float32(place.centre[axis])
        nearest = np.rint(straight + bend[axis] / np.float32(own_mm[axis])).astype(np.int32)
        inside &= (nearest >= 0) & (nearest < length)
        flat = flat * length + nearest
    return np.where(inside, structures.ravel()[np.where(inside, flat, 0)], 0).astype(np.uint8)


def mirrored(
    structures: NDArray[np.uint8], values: Sequence[int], sides: Sequence[tuple[int, int]]
) -> NDArray[np.uint8]:
    """A piece seen in a mirror along its first axis, with the values of left and right in each other's place."""
    place = {value: n for n, value in enumerate(values)}
    swap = np.arange(len(values), dtype=np.uint8)
    for left, right in sides:
        if left in place and right in place:
            swap[place[left]], swap[place[right]] = place[right], place[left]
    return np.ascontiguousarray(swap[structures[::-1]])


def synthesise(
    structures: NDArray[np.uint8],
    values: Sequence[int],
    spacing_mm: Sequence[float],
    settings: Synthesis,
    random: np.random.Generator,
) -> NDArray[np.float32]:
    """Intensities from 0 to 1 for a piece of a map.

    Args:
        structures: For every voxel (I, J, K) the place of its value in `values`.
        values: Of the map.
        spacing_mm: Of the piece.
        settings: Ranges.
        random: Source of all chance.
    """
    means, deviations = _intensities(values, settings, random)
    image = random.standard_normal(structures.shape, dtype=np.float32)
    image = image * deviations[structures] + means[structures]
    shape = structures.shape
    sigma = random.uniform(0, settings.blur_mm, 3) / np.array(spacing_mm)
    axis, is_thick = int(random.integers(3)), random.random() < settings.slice_share
    thickness = random.uniform(spacing_mm[axis], max(spacing_mm[axis], settings.slice_mm))
    if is_thick:
        sigma[axis] = 0.42 * thickness / spacing_mm[axis]  # a slice profile with its half width at the thickness
    for n in range(3):
        if sigma[n] > 0.2:
            image = gaussian_filter1d(image, sigma[n], axis=n, mode="nearest", truncate=3)
    image += random.standard_normal(shape, dtype=np.float32) * np.float32(random.uniform(0, settings.noise_sd))
    if is_thick:
        size = list(shape)
        size[axis] = max(2, round(shape[axis] * spacing_mm[axis] / thickness))
        image = _interpolated(_interpolated(image, size), shape)
    bias = smooth_field(random.normal(0, random.uniform(0, settings.bias_field), (1, 4, 4, 4)), shape)[0]
    image = np.clip(image, 0, None) * np.exp(bias)
    image /= max(float(image.max()), 1e-6)
    return np.asarray(image ** np.float32(math.exp(random.normal(0, settings.gamma))), dtype=np.float32)


def smooth_field(points: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float32]:
    """Values at control points (C, I, J, K), interpolated linearly to a grid (C, *shape)."""
    tensor = torch.from_numpy(points.astype(np.float32))[None]
    return np.asarray(interpolate(tensor, list(shape), mode="trilinear", align_corners=True)[0].numpy())


def _intensities(
    values: Sequence[int], settings: Synthesis, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of every value."""
    means = dict(zip(values, random.uniform(0, 1, len(values)), strict=True))
    deviations = dict(zip(values, random.uniform(0, 0.1, len(values)), strict=True))
    if random.random() < settings.tissue_share:
        for tissue in settings.tissues:
            base, spread = random.uniform(0.05, 0.95), random.uniform(0.01, 0.1)
            means |= {value: base + random.normal(0, spread) for value in tissue}
            deviations |= dict.fromkeys(tissue, random.uniform(0.005, 0.08))
    _share(means, settings.sides)
    _share(deviations, settings.sides)
    is_stripped = random.random() < settings.stripped_share
    if random.random() < 0.7:  # air is dark in most scans
        means[values[0]], deviations[values[0]] = 0.0, random.uniform(0, 0.02)
    if is_stripped:
        for value in settings.surroundings:
            means[value], deviations[value] = means[values[0]], deviations[values[0]]
    pair = [np.array([drawn[value] for value in values], dtype=np.float32) for drawn in (means, deviations)]
    return np.clip(pair[0], 0, 1), pair[1]


def _share(drawn: dict[int, float], sides: Sequence[tuple[int, int]]) -> None:
    drawn |= {right: drawn[left] for left, right in sides if left in drawn}


def _interpolated(image: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    tensor = torch.from_numpy(np.ascontiguousarray(image))[None, None]
    return np.asarray(interpolate(tensor, list(shape), mode="trilinear", align_corners=False)[0, 0].numpy())


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    (a, b, c), (x, y, z) = np.cos(angles), np.sin(angles)
    about_i = np.array([[1, 0, 0], [0, a, -x], [0, x, a]])
    about_j = np.array([[b, 0, y], [0, 1, 0], [-y, 0, b]])
    about_k = np.array([[c, -z, 0], [z, c, 0], [0, 0, 1]])
    return np.asarray(about_k @ about_j @ about_i)

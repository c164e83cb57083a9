"""Scans whose right answer is known in closed form, and the ways in which one scan can lie on disk."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import Geometry
from medseg.volume import Segmentation, Volume


def axis_arrangements() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The 48 ways to permute and flip three axes: (permutation, signs)."""
    return [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def rearranged(volume: Volume, order: tuple[int, ...], signs: tuple[int, ...]) -> Volume:
    """The same scan with its axes permuted and flipped, and an affine that says so."""
    array, affine = _rearrange(volume.array, volume.geometry, order, signs)
    return replace(volume, array=array, geometry=Geometry(array.shape[1:], affine), sources=())


def rearranged_labels(segmentation: Segmentation, order: tuple[int, ...], signs: tuple[int, ...]) -> Segmentation:
    array, affine = _rearrange(segmentation.array[None], segmentation.geometry, order, signs)
    return Segmentation(array[0], Geometry(array.shape[1:], affine), segmentation.labels)


def _rearrange(
    array: NDArray, geometry: Geometry, order: tuple[int, ...], signs: tuple[int, ...]
) -> tuple[NDArray, NDArray[np.float64]]:
    affine = geometry.affine[:, [*order, 3]].copy()
    array = array.transpose(0, *(1 + axis for axis in order))
    for axis, sign in enumerate(signs):
        if sign < 0:
            array = np.flip(array, 1 + axis)
            affine[:3, 3] += affine[:3, axis] * (array.shape[1 + axis] - 1)
            affine[:3, axis] *= -1
    return np.ascontiguousarray(array), affine


def rotation(degrees: float, axis: tuple[float, float, float]) -> NDArray[np.float64]:
    """3x3 rotation about an axis (Rodrigues' formula)."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def affine_of(spacing_mm: tuple[float, float, float], origin_mm: tuple[float, float, float] = (0, 0, 0), turn=None):
    """Affine of a grid with this spacing, turned by a 3x3 rotation."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turn is None else turn) * np.asarray(spacing_mm)
    affine[:3, 3] = origin_mm
    return affine


def world(geometry: Geometry) -> NDArray[np.float64]:
    """World coordinates (I, J, K, 3) of every voxel centre, in mm."""
    return geometry.to_world(np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), axis=-1))


def ball(geometry: Geometry, centre_mm: tuple[float, float, float], radius_mm: float) -> NDArray[np.bool_]:
    """Voxels whose centres lie in a ball."""
    return np.linalg.norm(world(geometry) - centre_mm, axis=-1) <= radius_mm

"""Random changes to training patches: MONAI's transforms from one description."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai import transforms

from medseg.training_settings import Augmentation

IMAGE, LABEL = "image", "label"
_BOTH = (IMAGE, LABEL)


def margin(augmentation: Augmentation, patch: Sequence[int], thin_axis: int | None) -> tuple[int, int, int]:
    """Voxels around a patch (I, J, K) that its rotated, scaled and shifted copy can reach, on each side of an axis."""
    if not _is_spatial(augmentation):
        return (0, 0, 0)
    half = [0.0 if axis == thin_axis else n / 2 for axis, n in enumerate(patch)]
    sine = math.sin(math.radians(min(90.0, augmentation.rotation_deg)))
    widest = (1 + augmentation.scaling) * (1 + augmentation.zoom)
    reach = [widest * (h + sine * (sum(half) - h)) + augmentation.translation_voxels - h for h in half]
    i, j, k = (0 if axis == thin_axis else math.ceil(r) for axis, r in enumerate(reach))
    return i, j, k


def build(augmentation: Augmentation, patch: Sequence[int], thin_axis: int | None) -> transforms.Compose:
    """The transforms of one patch, over a dictionary of `image` and `label`.

    They take float tensors with `margin` voxels to spare on every side, (C, I, J, K), or (C, two axes) for a 2D
    network, and give them back at the size of the patch. All chance is drawn from their `set_random_state`.

    Args:
        augmentation: Probabilities and ranges.
        patch: Size (I, J, K) of the result.
        thin_axis: The axis that a 2D network does not see, or None.
    """
    seen = [axis for axis in range(3) if axis != thin_axis]
    size = [patch[axis] for axis in seen]
    chosen: list[transforms.Transform] = []
    if _is_spatial(augmentation):
        chosen.append(_affine(augmentation, size, thin_axis))
    flips = [seen.index(axis) for axis in augmentation.flip_axes if axis in seen]
    chosen += [transforms.RandFlipd(_BOTH, prob=0.5, spatial_axis=axis) for axis in flips]
    if augmentation.sides:
        chosen.append(_Mirrored(augmentation.sides))
    chosen += _intensity(augmentation)
    return transforms.Compose([*chosen, transforms.EnsureTyped(_BOTH, track_meta=False)])


def _is_spatial(augmentation: Augmentation) -> bool:
    return augmentation.spatial_probability > 0 and any(
        (augmentation.rotation_deg, augmentation.scaling, augmentation.zoom, augmentation.translation_voxels)
    )


def _affine(augmentation: Augmentation, size: list[int], thin_axis: int | None) -> transforms.RandAffined:
    angle = math.radians(augmentation.rotation_deg)
    if thin_axis is None:
        rotation = [angle if axis in augmentation.rotation_axes else 0.0 for axis in range(3)]
    else:
        rotation = [angle if thin_axis in augmentation.rotation_axes else 0.0]
    ranges = {
        "rotate_range": rotation,
        "scale_range": [augmentation.scaling] * len(size),
        "translate_range": [augmentation.translation_voxels] * len(size),
    }
    affine = transforms.RandAffined(
        _BOTH,
        spatial_size=size,
        prob=augmentation.spatial_probability,
        **ranges,
        mode=["bilinear", "nearest"],
        padding_mode="border",  # the margin already holds the padding value
    )
    if augmentation.zoom:
        affine.rand_affine.rand_affine_grid = _ZoomedGrid(augmentation.zoom, **ranges)
    return affine


class _ZoomedGrid(transforms.RandAffineGrid):
    """MONAI's random grid, which scales each axis for itself, with one more factor for all of them."""

    def __init__(self, zoom: float, **ranges: Any) -> None:
        super().__init__(**ranges)
        self._most = math.log(1 + zoom)
        self.scale_params: list[float] = []

    def randomize(self, data: Any = None) -> None:
        """Draw the grid's numbers; factors and their inverses are equally likely."""
        super().randomize(data)
        factor = math.exp(self.R.uniform(-self._most, self._most))
        self.scale_params = [factor * scale for scale in self.scale_params]


class _Mirrored(transforms.RandomizableTransform):
    """Half of the patches in a mirror across their first axis, labels of left and right in each other's place."""

    def __init__(self, sides: Sequence[tuple[int, int]]) -> None:
        super().__init__(prob=0.5)
        self._sides = sides

    def __call__(self, patch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.randomize(None)
        if not self._do_transform:
            return patch
        image, label = patch[IMAGE].flip(1), patch[LABEL].flip(1)
        swapped = label.clone()
        for left, right in self._sides:
            swapped[label == left], swapped[label == right] = right, left
        return {IMAGE: image, LABEL: swapped}


def _intensity(augmentation: Augmentation) -> list[transforms.Transform]:
    p = augmentation.intensity_probability
    chosen: list[transforms.Transform] = []
    if augmentation.noise_sd:
        chosen.append(transforms.RandGaussianNoised(IMAGE, prob=p, std=augmentation.noise_sd))
    if sd := augmentation.blur_sd_voxels:
        ranges = {f"sigma_{axis}": (0.25 * sd, sd) for axis in "xyz"}
        chosen.append(transforms.RandGaussianSmoothd(IMAGE, prob=p, **ranges))
    if augmentation.brightness:
        chosen.append(transforms.RandScaleIntensityd(IMAGE, prob=p, factors=augmentation.brightness))
    if augmentation.gamma:
        low = 1 - augmentation.gamma
        chosen.append(transforms.RandAdjustContrastd(IMAGE, prob=p, gamma=(low, 1 / low)))
    if field := augmentation.bias_field:
        chosen.append(transforms.RandBiasFieldd(IMAGE, prob=p, coeff_range=(-field, field)))
    return chosen

"""From a scan as it was read to a scan as a model wants it: MONAI transforms from one description.

Training, prediction and the bundle's `configs/inference.json` all take their transforms from `steps`, so the three
cannot drift apart; the first two run them by `medseg.transforms`, without MONAI.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medseg.config import SLICES, NormaliseIntensity, Preparation, ScaleIntensityPercentiles, ScaleIntensityRange
from medseg.errors import GeometryError, InputError
from medseg.geometry import Geometry
from medseg.study import NO_SPACING
from medseg.transforms import TRANSFORMS, Image, NotSeparableError
from medseg.volume import Segmentation, Volume


class Step(NamedTuple):
    """A MONAI transform: its name in `monai.transforms`, and its arguments."""

    name: str
    arguments: dict[str, Any]


def steps(preparation: Preparation, channels: int = 1) -> list[Step]:
    """The MONAI transforms that a preparation stands for, in order, for an image of so many channels."""
    chosen: list[Step] = []

    def add(name: str, **arguments: Any) -> None:
        chosen.append(Step(name, arguments))

    if preparation.foreground_above is not None:
        add("CropForeground", select_fn=Above(preparation.foreground_above))
    # `labels=None` takes left/right and so on from the affine, not from named axes.
    if preparation.orientation != SLICES:  # else the axes stay; `for_scan` puts codes in its place
        add("Orientation", axcodes=preparation.orientation, labels=None)
    if any(preparation.spacing_mm):
        pixdim = [-1.0 if spacing is None else spacing for spacing in preparation.spacing_mm]  # -1 keeps the scan's own
        add("Spacing", pixdim=pixdim, mode="bilinear", padding_mode="border", dtype="float32")
    match preparation.intensity:
        case NormaliseIntensity(nonzero=nonzero):
            add("NormalizeIntensity", nonzero=nonzero, channel_wise=True)
        case ScaleIntensityRange(low=low, high=high):
            add("ScaleIntensityRange", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)
        case ScaleIntensityPercentiles(low=low, high=high):
            window: dict[str, Any] = {
                "lower": low,
                "upper": high,
                "b_min": 0.0,
                "b_max": 1.0,
                "clip": True,
                "channel_wise": True,
            }
            add("ScaleIntensityRangePercentiles", **window)
    if (convention := preparation.convention) is not None:
        if convention.order == "BGR" and channels == 3:
            add("Lambda", func=reversed_channels)
        subtract, divide = convention.affine(channels)
        add("NormalizeIntensity", subtrahend=subtract, divisor=divide, channel_wise=True)
    return chosen


def for_scan(preparation: Preparation, volume: Volume) -> Preparation:
    """The preparation as it is for one scan: what depends on the scan's own grid is settled.

    The axis across the slices has one voxel, or else the widest spacing, or else the fewest voxels.
    """
    changes: dict[str, Any] = {}
    geometry = volume.geometry
    if preparation.orientation == SLICES:
        by_axis = zip(geometry.shape, geometry.spacing_mm, range(3), strict=True)
        across = max((n == 1, round(spacing, 3), -n, axis) for n, spacing, axis in by_axis)[-1]
        order = [axis for axis in range(3) if axis != across] + [across]
        changes["orientation"] = "".join(geometry.orientation[axis] for axis in order)
    if any(finding.code == NO_SPACING for finding in volume.findings):
        changes["spacing_mm"] = (None, None, None)
    return preparation.model_copy(update=changes)


def reversed_channels(image: NDArray[Any]) -> NDArray[Any]:
    """Red, green and blue (3, I, J, K) as blue, green and red."""
    return image[::-1]


class Above:
    """Foreground test for MONAI's `CropForeground`: voxels above a stored value."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, image: NDArray[Any]) -> NDArray[np.bool_]:
        """Voxels (C, I, J, K) to whether each is foreground."""
        found: NDArray[np.bool_] = image > self.threshold
        return found


def prepare(volume: Volume, preparation: Preparation) -> Volume:
    """Bring a scan onto the model's grid and intensity scale.

    Args:
        volume: Array (C, I, J, K) of any integer or float type.
        preparation: The model's own.

    Returns:
        A volume of float32 whose geometry tells where its voxels lie in the patient.

    Raises:
        InputError: If the scan has no foreground, or no variation to normalise by.
    """
    scan = volume.array.view()
    scan.flags.writeable = False
    image: Image = (scan, volume.geometry.affine.copy())
    channels = len(volume.array)
    for step in steps(for_scan(preparation, volume), channels):
        if step.name == "CropForeground" and not step.arguments["select_fn"](image[0]).any():
            raise InputError(f"No voxel is above {preparation.foreground_above:g}: nothing is left to segment.")
        try:
            image = TRANSFORMS[step.name](image, **step.arguments)
        except NotSeparableError:
            image = _by_monai(step, image)
    array = image[0]
    if array.dtype != np.float32 or not (array.flags.writeable and array.flags.c_contiguous):
        array = np.array(array, dtype=np.float32, order="C")
    return Volume(array, Geometry(array.shape[1:], image[1]), volume.modality, volume.findings)


def _by_monai(step: Step, image: Image) -> Image:
    """A step by MONAI itself, which takes seconds to load."""
    import torch  # noqa: PLC0415
    from monai import transforms  # noqa: PLC0415
    from monai.data.meta_tensor import MetaTensor  # noqa: PLC0415

    array = torch.from_numpy(np.array(image[0], dtype=np.float32, order="C"))
    result = getattr(transforms, step.name)(**step.arguments)(MetaTensor(array, affine=torch.from_numpy(image[1])))
    return result.as_tensor().numpy(), result.affine.numpy()


def prepare_labels(segmentation: Segmentation, prepared: Geometry) -> Segmentation:
    """Bring a reference onto the grid of its prepared scan by nearest neighbour.

    Args:
        segmentation: Labels on any grid.
        prepared: Geometry that `prepare` gave the scan.

    Raises:
        GeometryError: If the prepared grid does not touch the segmentation.
    """
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in prepared.shape], indexing="ij"), axis=-1)
    to_labels = prepared.index_map(segmentation.geometry)
    nearest = np.rint(indices @ to_labels[:3, :3].T + to_labels[:3, 3]).astype(np.int64)
    inside = np.all((nearest >= 0) & (nearest < segmentation.array.shape), axis=-1)
    if not inside.any():
        raise GeometryError(f"Labels ({segmentation.geometry}) and scan ({prepared}) do not overlap in space.")
    labels = np.zeros(prepared.shape, dtype=segmentation.array.dtype)
    labels[inside] = segmentation.array[tuple(nearest[inside].T)]
    return Segmentation(labels, prepared, segmentation.labels, segmentation.findings)

"""Settings of the dense CRF that papers used, and those measured for CT and MR."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medseg.config import ScaleIntensityPercentiles, ScaleIntensityRange
from medseg.errors import ConfigError
from medseg.geometry import Spacing
from medseg.settings import Settings

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# Percentiles are read from about this many voxels: more move them by less than a grey level.
_PERCENTILE_VOXELS = 2_000_000


class CrfSettings(Settings):
    """What a dense CRF weighs, in the papers' terms.

    Attributes:
        smoothness_weight: Of the kernel over positions.
        smoothness_sd: Its standard deviation, in `unit`.
        appearance_weight: Of the kernel over positions and intensities.
        appearance_sd: Its standard deviation in space, in `unit`.
        appearance_sd_value: Its standard deviation in grey levels, of which `intensity` makes 0-255.
        iterations: Of the mean field.
        unit: "mm", or "voxels" as the papers on photographs count.
        intensity: What becomes 0-255, clipped; None leaves the scan's intensities as they are.
        accurate: A finer lattice for scans of several channels.
        prune: Labels are left out whose probability the CRF cannot raise above this together; 0 keeps all.
    """

    smoothness_weight: Weight = 3.0
    smoothness_sd: Positive = 3.0
    appearance_weight: Weight = 10.0
    appearance_sd: Positive
    appearance_sd_value: Positive
    iterations: int = Field(5, ge=1)
    unit: Literal["mm", "voxels"] = "mm"
    intensity: ScaleIntensityRange | ScaleIntensityPercentiles | None = Field(None, discriminator="kind")
    accurate: bool = False
    prune: float = Field(0.01, ge=0, lt=0.5)

    def spacing(self, spacing_mm: Spacing) -> Spacing:
        """The distances between voxels in `unit`."""
        return spacing_mm if self.unit == "mm" else (1.0, 1.0, 1.0)

    def grey_levels(self, array: NDArray[Any]) -> tuple[float, float]:
        """(factor, offset) with which factor · (intensity - offset) is 0-255 for this scan (C, I, J, K).

        `low` and `high` of the window become 0 and 255.
        """
        match self.intensity:
            case None:
                return 1.0, 0.0
            case ScaleIntensityRange(low=low, high=high):
                return 255 / (high - low), low
            case ScaleIntensityPercentiles(low=low, high=high):
                step = max(array.size // _PERCENTILE_VOXELS, 1)
                bottom, top = np.percentile(array.reshape(-1)[::step], (low, high)).tolist()
                return 255 / max(top - bottom, 1e-12), bottom


_LEVELS = ScaleIntensityPercentiles(low=0.5, high=99.5)

PRESETS: dict[str, CrfSettings] = {
    # Chen et al., ICLR 2015 (DeepLab v1), whose paper names only the 3 / 3: the rest is its released run_densecrf.sh.
    "deeplab-v1": CrfSettings(
        appearance_weight=4, appearance_sd=49, appearance_sd_value=5, iterations=10, unit="voxels"
    ),
    # Chen et al., TPAMI 2018 (DeepLab v2), ResNet-101: 4 / 67 / 3; 3 / 1; 10 iterations.
    "deeplab-v2": CrfSettings(
        appearance_weight=4, appearance_sd=67, appearance_sd_value=3, smoothness_sd=1, iterations=10, unit="voxels"
    ),
    # Zheng et al., ICCV 2015 (CRF-RNN), before learning: 5 / 160 / 3; 3 / 3; 5 iterations.
    "crf-rnn": CrfSettings(appearance_weight=5, appearance_sd=160, appearance_sd_value=3, unit="voxels"),
    # pydensecrf's example, copied into most code since: 10 / 80 / 13; 3 / 3.
    "common": CrfSettings(appearance_sd=80, appearance_sd_value=13, unit="voxels"),
    # Christ et al., MICCAI 2016 (cascaded FCN and 3D CRF for liver CT): 10 / 60 / 20; 3 / 3.
    "liver-ct": CrfSettings(
        appearance_sd=60,
        appearance_sd_value=20,
        unit="voxels",
        intensity=ScaleIntensityRange(low=-100, high=400),
    ),
    # "mr" and "ct" were chosen by tests/benchmarks/crf_presets.py among random draws, on every second held-out patient.
    # Kernels wider than a structure, with weights of several logits, let the background outvote it.
    # Of 20 draws this changed mean Dice most: hippocampus-mr +0.0006, a weak 2D network +0.0045, heart-mr +0.0002,
    # scribbles on the hippocampus +0.0229; on the other patients +0.0004, +0.0034, -0.0001 and +0.0235.
    "mr": CrfSettings(
        smoothness_weight=0.3,
        smoothness_sd=1,
        appearance_weight=0.3,
        appearance_sd=2,
        appearance_sd_value=5,
        intensity=_LEVELS,
    ),
    # Of 12 draws this changed mean Dice most: a U-Net for head and neck +0.0008, warped contours -0.0020, scribbles
    # +0.0084 on five scans cut around the structures; the U-Net +0.0012 on three whole scans of others,
    # the shipped headneck-ct +0.0009 on five, warped contours -0.0077 and scribbles +0.0098 there.
    "ct": CrfSettings(
        smoothness_weight=0.3,
        smoothness_sd=2,
        appearance_weight=0.3,
        appearance_sd=8,
        appearance_sd_value=5,
        intensity=ScaleIntensityRange(low=-160, high=240),
    ),
}


def preset(name: str) -> CrfSettings:
    """The settings of that name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in PRESETS:
        raise ConfigError(f"No CRF preset is named {name!r}; there are: {', '.join(PRESETS)}.")
    return PRESETS[name]

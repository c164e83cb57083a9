"""Settings of a training run alone: its data, its random changes, its schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from medseg.settings import Axis, Settings, Size


class DataSettings(Settings):
    """Where cases come from and how they are split.

    Attributes:
        root: Folder of a Medical Segmentation Decathlon task (dataset.json), an nnU-Net raw dataset,
            or a CSV file of image/label pairs; relative to the configuration file.
        columns: Of a CSV file: what `image`, `label`, `case` and `group` are made of where they are not columns
            themselves, such as {"image": "images/{slice}.png", "group": "{patient}"}.
        values: Of the label files: what stands for another label, such as {255: 1}; 0 is background.
        folds: The sorted groups (of a list without groups: the cases) are dealt to this many folds in turn.
        fold: The fold that takes no part in training.
        validation: Names of the cases or groups that take no part in training, instead of folds.
    """

    root: Path
    columns: dict[Literal["image", "label", "case", "group"], str] = Field(default_factory=dict)
    values: dict[int, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    folds: int = Field(5, ge=2)
    fold: int = Field(0, ge=0)
    validation: tuple[str, ...] = ()


class Augmentation(Settings):
    """Random changes to training cases: probabilities and ranges of MONAI's transforms. A range of 0 switches one off.

    Attributes:
        rotation_axes: Axes about which patches turn; leave out those that would mix thick slices with fine pixels.
        scaling: Of each axis for itself: factors from 1 - scaling to 1 + scaling.
        zoom: Of all axes together: factors from 1 / (1 + zoom) to 1 + zoom.
        gamma: Exponents are drawn from 1 - gamma to 1 / (1 - gamma).
        sides: Labels that are left and right of the same structure. With them half of the patches are seen in a mirror
            across the first axis, these labels in each other's place.
    """

    rotation_deg: float = Field(20.0, ge=0, le=180)
    rotation_axes: tuple[Axis, ...] = (0, 1, 2)
    scaling: float = Field(0.2, ge=0, lt=1)
    zoom: float = Field(0.0, ge=0)
    translation_voxels: float = Field(3.0, ge=0)
    spatial_probability: float = Field(0.9, ge=0, le=1)
    flip_axes: tuple[Axis, ...] = ()
    sides: tuple[tuple[int, int], ...] = ()
    noise_sd: float = Field(0.1, ge=0)
    blur_sd_voxels: float = Field(1.0, ge=0)
    brightness: float = Field(0.25, ge=0)
    gamma: float = Field(0.3, ge=0, lt=1)
    bias_field: float = Field(0.3, ge=0)
    intensity_probability: float = Field(0.2, ge=0, le=1)


class Synthesis(Settings):
    """How images are made from label maps: ranges of what is drawn for each image.

    Attributes:
        sides: Values of the maps that are left and right of the same structure: both look alike, and mirroring swaps
            them in the maps before their values become labels.
        tissues: Values whose structures look similar in real scans, such as grey matter.
        tissue_share: Share of the images in which they do; in the others every structure has its own intensity.
        surroundings: Values that are empty in some images, as where a skull was stripped.
        stripped_share: Of these images.
        rotation_deg: About each axis.
        scaling: Of each axis for itself: factors from 1 - scaling to 1 + scaling.
        deformation_mm: Standard deviation of the displacement of control points.
        control_mm: Distance between control points.
        reach_mm: How far from the middle of the labels the middle of a patch may lie, along each axis.
        bias_field: Standard deviation of the logarithm of a smooth factor.
        gamma: Standard deviation of the logarithm of an exponent.
        noise_sd: Most noise, of intensities from 0 to 1.
        blur_mm: Most blur (standard deviation) in the plane of the slices.
        slice_mm: Thickest slices; they lie along an axis drawn for each image.
        slice_share: Share of the images that have slices thicker than a voxel.
        contrasts: Images that are made of each map that is kept out, for validation.
    """

    sides: tuple[tuple[int, int], ...] = ()
    tissues: tuple[tuple[int, ...], ...] = ()
    tissue_share: float = Field(0.5, ge=0, le=1)
    surroundings: tuple[int, ...] = ()
    stripped_share: float = Field(0.2, ge=0, le=1)
    rotation_deg: float = Field(20.0, ge=0, le=180)
    scaling: float = Field(0.15, ge=0, lt=1)
    deformation_mm: float = Field(3.0, ge=0)
    control_mm: float = Field(25.0, gt=0)
    reach_mm: float = Field(35.0, ge=0)
    bias_field: float = Field(0.3, ge=0)
    gamma: float = Field(0.4, ge=0)
    noise_sd: float = Field(0.05, ge=0)
    blur_mm: float = Field(1.0, ge=0)
    slice_mm: float = Field(6.0, ge=0)
    slice_share: float = Field(0.4, ge=0, le=1)
    contrasts: int = Field(3, ge=1)


class TrainingSettings(Settings):
    """How a network is trained.

    Attributes:
        patch: Voxels (I, J, K) of one training sample; one entry is 1 for a 2D network.
        samples_per_case: Patches drawn from a case in an epoch.
        foreground_share: Share of the patches that are centred on a labelled voxel; the others lie anywhere.
        overhang: Share of a patch's length by which these others may reach beyond the scan.
        head_factor: Learning rate of what is not the backbone, against the backbone's.
        bias_factor: Learning rate of biases, against that of weights beside them.
        synthesis: Make images from label maps instead of reading them; `augmentation` is then left aside.
        ema_decay: Decay per step of the averaged weights that are validated and shipped; 0 switches it off.
    """

    epochs: int = Field(ge=1)
    batch_size: int = Field(2, ge=1)
    samples_per_case: int = Field(1, ge=1)
    patch: Size
    foreground_share: float = Field(0.67, ge=0, le=1)
    overhang: float = Field(0.0, ge=0, lt=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    head_factor: float = Field(1.0, gt=0)
    bias_factor: float = Field(1.0, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    warmup_steps: int = Field(100, ge=0)
    poly_power: float = Field(0.9, gt=0)
    gradient_clip: float = Field(12.0, gt=0)
    ema_decay: float = Field(0.99, ge=0, lt=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    validate_every: int = Field(5, ge=1)
    seed: int = Field(0, ge=0)
    workers: int = Field(0, ge=0)
    augmentation: Augmentation = Augmentation()
    synthesis: Synthesis | None = None

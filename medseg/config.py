"""Settings as data: pydantic models, each of which stands in a YAML file or in a model's metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from medseg.convention import InputConvention
from medseg.errors import ConfigError
from medseg.labels import LabelSet
from medseg.settings import Axis, ComponentSettings, Settings, Size
from medseg.training_settings import DataSettings, TrainingSettings

SLICES = "slices"
SpacingEntry = Annotated[float, Field(gt=0, allow_inf_nan=False)] | None


class NormaliseIntensity(Settings):
    """Zero mean and unit standard deviation, per channel and scan (MR)."""

    kind: Literal["normalise"] = "normalise"
    nonzero: bool = False  # over the non-zero voxels alone


class ScaleIntensityRange(Settings):
    """A fixed window, such as Hounsfield units from `low` to `high`, to 0..1, clipped (CT)."""

    kind: Literal["window"] = "window"
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> ScaleIntensityRange:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        return self


class ScaleIntensityPercentiles(Settings):
    """The window between two percentiles of the scan to 0..1, clipped (photographs, ultrasound)."""

    kind: Literal["percentiles"] = "percentiles"
    low: float = Field(1.0, ge=0, le=100)
    high: float = Field(99.0, ge=0, le=100)


Intensity = Annotated[
    NormaliseIntensity | ScaleIntensityRange | ScaleIntensityPercentiles,
    Field(discriminator="kind"),
]


class Preparation(Settings):
    """What is done to every scan before the network sees it, in training and in prediction alike.

    In this order: crop to the foreground, reorient, resample, scale intensities, convert to a checkpoint's convention.

    Attributes:
        orientation: Codes of the axes, such as RAS, or "slices": the axis across the slices becomes K, the axes of a
            slice stay as they are (for slices that lie oblique in the patient, and networks that know no direction).
        spacing_mm: None keeps the scan's own. The voxels of a picture, whose size nobody knows, are taken to be right.
        foreground_above: Crop to the box of voxels above this stored value; None keeps all.
        intensity: Onto which scale.
        convention: Of the checkpoint that training starts from, filled in where it is not given: 0 and 1 become its 0
            and 255.
    """

    orientation: str = "RAS"
    spacing_mm: tuple[SpacingEntry, SpacingEntry, SpacingEntry] = (None, None, None)
    foreground_above: float | None = None
    intensity: Intensity = NormaliseIntensity()
    convention: InputConvention | None = None

    @model_validator(mode="after")
    def _grey_values(self) -> Preparation:
        if self.convention is not None and isinstance(self.intensity, NormaliseIntensity):
            raise ValueError("a checkpoint's convention needs intensities from 0 to 1: choose window or percentiles")
        return self

    @field_validator("orientation")
    @classmethod
    def _axis_codes(cls, orientation: str) -> str:
        if orientation == SLICES:
            return orientation
        if sorted("RAS"["RLAPSI".index(c) // 2] if c in "RLAPSI" else c for c in orientation) != ["A", "R", "S"]:
            raise ValueError(
                f"{orientation!r} does not name each of the axes R/L, A/P and S/I once, like RAS, nor is it {SLICES}"
            )
        return orientation


class Windows(Settings):
    """How a network is swept over a volume. Every choice here can change labels, so it belongs to the model.

    Attributes:
        size: Window in voxels (I, J, K) of the prepared grid; a 2D network has one entry equal to 1.
        overlap: Share of a window's length that the next window covers again.
        weights: "gaussian" as MONAI weighs windows (sd = size/8, clamped below at 1e-3), or "constant".
        average: What overlapping windows (and mirrored passes) average.
        context: Neighbour slices on each side that a 2D network sees as further channels (2.5D).
        padding_value: Fills windows that reach beyond the volume, in prepared units.
        mirror_axes: Axes along which mirrored passes are averaged (test-time augmentation).
        mirror_swaps: Channels of the network that change places in a pass mirrored along the first axis: left and right
            of the same structure.
        interpolation: From the prepared grid to the scan's own: linear on the scores, or nearest.
        tiling: "overlap" as MONAI lays windows; "even" spreads them evenly, up to a quarter further apart, instead of
            moving the last one back; "halo" gives every voxel to one window, which sees as far beyond it as the
            network's receptive field, so that the scores are those of the whole image at once.
        precision: Of the network's arithmetic; what follows is always in float32.
        body_only: Whether only the box around the body is swept; all else is background.
    """

    size: Size
    overlap: float = Field(0.5, ge=0, lt=1)
    weights: Literal["gaussian", "constant"] = "gaussian"
    average: Literal["logits", "probabilities"] = "logits"
    context: int = Field(0, ge=0)
    padding_value: float = 0.0
    mirror_axes: tuple[Axis, ...] = ()
    mirror_swaps: tuple[tuple[int, int], ...] = ()
    interpolation: Literal["linear", "nearest"] = "linear"
    tiling: Literal["overlap", "even", "halo"] = "overlap"
    precision: Literal["float32", "bfloat16"] = "float32"
    body_only: bool = False

    @property
    def thin_axis(self) -> int | None:
        """The axis that a 2D network does not see, or None for a 3D network."""
        return self.size.index(1) if 1 in self.size else None

    @model_validator(mode="after")
    def _dimensions(self) -> Windows:
        if self.size.count(1) > 1:
            raise ValueError(f"window {self.size} has more than one thin axis")
        if self.context and self.thin_axis is None:
            raise ValueError("context (2.5D) needs a window that is one voxel thick")
        return self


class NetworkSettings(Settings):
    """Which architecture, and how it is set up.

    Attributes:
        architecture: Its name in the registry.
        spatial_dims: 2 or 3.
        in_channels: Of a scan.
        settings: Keyword arguments of its builder.
        checkpoint: What training starts from, beside the configuration: public weights (see `load_checkpoint`), or the
            folder of a model of the same architecture and settings.
    """

    architecture: str
    spatial_dims: Literal[2, 3] = 3
    in_channels: int = Field(1, ge=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    checkpoint: Path | None = None


class Accepts(Settings):
    """Which scans a model was made for.

    Attributes:
        modalities: DICOM modalities. A file that does not say its modality is not turned away for it.
        dimensions: 3 for volumes, 2 for single images or slices.
        field_of_view_mm: Smallest and largest extent along any axis that the scan may have, in mm.
        by_name_only: Whether the model has to be named with --model: nothing in a header tells its organ from others.
    """

    modalities: tuple[str, ...] = ()
    dimensions: Literal[2, 3] = 3
    field_of_view_mm: tuple[float, float] = (0.0, float("inf"))
    by_name_only: bool = False


class ModelCard(Settings):
    """What people must know of a model before they use it.

    Attributes:
        tried_on: Scans of other kinds that the finished model is tried on for its card: their paths, relative to the
            folder of the data, by what they are.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: str = "1.0.0"
    title: str
    description: str
    intended_use: str
    limits: str
    data_source: str
    licence: str
    authors: str = "medseg developers"
    tried_on: dict[str, str] = Field(default_factory=dict)


class TrainConfig(Settings):
    """One YAML in configs/train: one complete training run.

    Attributes:
        half_weights: Store the weights in 16 bits; the card's figures are then those of the stored ones.
    """

    card: ModelCard
    data: DataSettings
    labels: LabelSet
    accepts: Accepts = Accepts()
    preparation: Preparation = Preparation()
    network: NetworkSettings
    windows: Windows
    training: TrainingSettings
    half_weights: bool = False

    @model_validator(mode="after")
    def _dimensions_agree(self) -> TrainConfig:
        thin_axis = self.windows.thin_axis
        if (self.network.spatial_dims == 2) != (thin_axis is not None):
            dims = self.network.spatial_dims
            raise ValueError(f"a {dims}D network does not fit windows of {self.windows.size} voxels")
        if thin_axis is not None and self.training.patch[thin_axis] != 1:
            raise ValueError(f"training.patch {self.training.patch} is not one voxel thick along axis {thin_axis}")
        return self

    @model_validator(mode="after")
    def _sides_are_known(self) -> TrainConfig:
        sides = self.training.augmentation.sides
        if unknown := {index for pair in sides for index in pair} - set(self.labels.indices):
            raise ValueError(f"training.augmentation.sides names {min(unknown)}, which is no label")
        if sides and self.preparation.orientation[0] not in "RL":
            turned = self.preparation.orientation
            raise ValueError(f"training.augmentation.sides needs a first axis between right and left, not {turned}")
        channels = {frozenset(self.labels.indices.index(index) + 1 for index in pair) for pair in sides}
        if sides and 0 in self.windows.mirror_axes and channels != set(map(frozenset, self.windows.mirror_swaps)):
            raise ValueError(f"windows.mirror_swaps has to be {sorted(map(sorted, channels))}, as training swaps sides")
        return self


class PredictConfig(Settings):
    """One YAML in configs/predict: the settings of `medseg predict`, under the names of its options."""

    model: str | None = None
    device: str | None = None
    overlap: float | None = Field(None, ge=0, lt=1)
    disable_tta: bool = False
    fast: bool = False
    tiling: Literal["overlap", "even", "halo"] | None = None
    precision: Literal["float32", "bfloat16"] | None = None
    body_only: bool = False
    compile: bool = False  # the network, by torch.compile
    max_memory: str | None = None  # such as 8GB
    roi_subset: tuple[str, ...] = ()
    crf: str | None = None  # a preset of medseg.refine, or "auto" for the one of the model's modality
    components: ComponentSettings = ComponentSettings()
    output_type: Literal["nifti", "dicom-seg", "dicom-seg-binary", "dicom-rtstruct"] = "nifti"
    statistics: bool = True
    preview: bool = True
    report: bool = False


S = TypeVar("S", bound=BaseModel)


def load_config(path: Path, kind: type[S]) -> S:
    """Read one YAML file into a settings model.

    Raises:
        ConfigError: If the file is missing, is not YAML, or a setting is unknown or out of range.
    """
    import yaml  # noqa: PLC0415 - most runs have options alone

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error.__class__.__name__}); give an existing YAML file.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    return validate(content, kind, where=str(path))


def validate(content: object, kind: type[S], *, where: str) -> S:
    """Check parsed settings; the first thing that is wrong becomes one line.

    Raises:
        ConfigError: If a setting is unknown, missing or out of range.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{where}: {key}: {first['msg']}.") from None

"""A paper's training schedule as data: one YAML in configs/voc."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from medseg.settings import Settings


class VocSchedule(Settings):
    """How a paper trained its network on VOC.

    Attributes:
        paper: Where the schedule stands; what it leaves open is said in the file's comments.
        architecture: A name in `medseg.networks.ARCHITECTURES`.
        settings: Of the architecture.
        split: The list of photos.
        iterations: Optimisation steps.
        accumulate: Batches whose gradients make one step, for papers whose batches are of photos of many sizes.
        crop: Rows and columns of a sample; 0 takes whole photos (batches of one).
        scales: Smallest and largest random scaling.
        rotation_degrees: Largest random rotation either way, of every second sample.
        blur: Whether every second sample is blurred a little.
        loss: "mean" over the judged pixels, or their "sum" as Caffe's recipes with tiny learning rates have it.
        balance: Whether classes are weighted by the median of their frequencies over their own.
        decay: "poly" with `power`, "step" (times 0.1 every `step` iterations), or "fixed".
        head: Prefixes of the parameters that `head_factor` is for; none means all but the backbone's.
        head_factor: Learning rate of the head, against the rest's.
        bias_factor: Learning rate of biases, against their weights'.
        decay_biases: Whether weight decay takes biases too; Caffe's recipes leave them out.
        input: Convention of the photos: RGB as torchvision normalises them, or BGR as Caffe does.
    """

    paper: str
    architecture: str
    settings: dict[str, Any] = Field(default_factory=dict)
    split: str = "train_aug"
    iterations: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    accumulate: int = Field(1, ge=1)
    crop: int = Field(ge=0)
    scales: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (1.0, 1.0)
    rotation_degrees: float = Field(0.0, ge=0, le=180)
    blur: bool = False
    flip: bool = True
    loss: Literal["mean", "sum"] = "mean"
    balance: bool = False
    learning_rate: float = Field(gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    decay: Literal["poly", "step", "fixed"] = "poly"
    power: float = 0.9
    step: int = Field(2000, ge=1)
    head: tuple[str, ...] = ()
    head_factor: float = Field(1.0, gt=0)
    bias_factor: float = Field(1.0, gt=0)
    decay_biases: bool = True
    input: Literal["rgb", "bgr"] = "rgb"
    seed: int = 0

    @property
    def samples(self) -> int:
        """Photos that a run sees."""
        return self.iterations * self.accumulate * self.batch_size

    def is_head(self, parameter: str) -> bool:
        """Whether `head_factor` is for a parameter of that name."""
        return parameter.startswith(self.head) if self.head else not parameter.startswith("backbone.")

    def rate(self, iteration: int) -> float:
        """The learning rate's factor at an iteration, counted from 0."""
        if self.decay == "poly":
            return float(max(0.0, 1 - iteration / self.iterations) ** self.power)
        return float(0.1 ** (iteration // self.step)) if self.decay == "step" else 1.0

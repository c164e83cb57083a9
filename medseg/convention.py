"""What public weights expect of an image. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class InputConvention(BaseModel):
    """What a public checkpoint was trained on: (image in 0…255 · scale - mean) / std, channel by channel.

    Attributes:
        order: Of the channels.
        scale: Factor of the image.
        mean: Subtracted after scaling, in `order`.
        std: Divided by at last, in `order`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    order: Literal["RGB", "BGR"]
    scale: float = Field(gt=0)
    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def affine(self, channels: int) -> tuple[list[float], list[float]]:
        """What to subtract from an image of 0…1 and what to divide it by, channel by channel.

        Args:
            channels: Of the image. Three are red, green and blue, and are named in `order`; any other number takes
                the mean over the colours, as the weights of the first layer do.
        """
        top = 255 * self.scale
        subtract, divide = ([value / top for value in values] for values in (self.mean, self.std))
        if channels == len(subtract):
            return subtract, divide
        return [sum(subtract) / 3] * channels, [sum(divide) / 3] * channels

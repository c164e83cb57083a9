"""What all settings have in common, and those of a clean-up."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Axis = Literal[0, 1, 2]


class Settings(BaseModel):
    """Base: immutable, and a misspelt key is an error rather than ignored.

    What checks a model is built when it is first needed: most runs need few of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class ComponentSettings(Settings):
    """What is cleaned up, of every label but background, in this order.

    Attributes:
        min_volume_mm3: Components that are smaller become background.
        keep_largest: All but the largest component of a label become background.
        fill_holes: Background that is enclosed by one label, and does not reach the border, becomes that label.
        labels: Labels that are cleaned up; none means all.
    """

    min_volume_mm3: float = Field(0.0, ge=0, allow_inf_nan=False)
    keep_largest: bool = False
    fill_holes: bool = False
    labels: tuple[int, ...] = ()

    @property
    def anything(self) -> bool:
        """Whether there is something to do."""
        return self.min_volume_mm3 > 0 or self.keep_largest or self.fill_holes

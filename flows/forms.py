"""What the flows take: forms in Prefect's UI, refused at submission if something is wrong."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from medseg.config import PredictConfig


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    settings: PredictConfig = Field(
        default_factory=PredictConfig, description="As in configs/predict, under the names of the options of `predict`."
    )
    frame: int | None = Field(default=None, ge=0, description="Which volume of a 4D file, from 0.")


class StudyRequest(_Request):
    """One study to segment; paths are those of the machine that the worker runs on."""

    study: Path = Field(description="A scan's file, or a folder with one or more scans.")
    output: Path = Field(description="Folder of the results.")
    reference: Path | None = Field(
        default=None, description="A label file to compare the mask with; for a study of one scan."
    )


class ArchiveRequest(_Request):
    """A folder of studies, of which what has no result or a stale one is segmented."""

    root: Path = Field(description="Folder of the scans.")
    output: Path = Field(description="Folder of the results.")
    chunk: int = Field(default=25, ge=1, le=500, description="Studies a flow run.")
    retry_failed: bool = Field(default=False, description="Also what failed before and has not changed.")

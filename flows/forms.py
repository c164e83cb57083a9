"""What the flows take: forms in Prefect's UI, refused at submission if something is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medseg.config import PredictConfig
from medseg.errors import MedsegError
from medseg.pacs.client import check_uid, connect
from medseg.pacs.server import Tls, parse, read_credentials
from medseg.study import ScanOptions

if TYPE_CHECKING:
    from medseg.pacs.client import Client

_DICOM = ("dicom-seg", "dicom-seg-binary", "dicom-rtstruct")

# The rule of `_check_push` in the words of JSON Schema, which is what Prefect's server goes by.
_PUSHED_IS_DICOM: dict[str, Any] = {
    "if": {
        "required": ["pacs"],
        "properties": {"pacs": {"type": "object", "required": ["push"], "properties": {"push": {"const": True}}}},
    },
    "then": {
        "required": ["settings"],
        "properties": {"settings": {"required": ["output_type"], "properties": {"output_type": {"enum": [*_DICOM]}}}},
    },
}


class Pacs(BaseModel):
    """A PACS; files are those of the machine that the worker runs on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    server: str = Field(pattern="^(https?|dicoms?)://", description="https://HOST/PATH or dicoms://TITLE@HOST:PORT.")
    credentials: Path | None = Field(default=None, description="YAML file: user and password, or token.")
    ca: Path | None = Field(default=None, description="Authorities to trust instead of the usual ones, PEM.")
    cert: Path | None = Field(default=None, description="Our own certificate, PEM.")
    key: Path | None = Field(default=None, description="Its key, where it is in another file.")
    aet: str = Field(default="MEDSEG", min_length=1, max_length=16, description="Our own AE title.")
    listen: str | None = Field(default=None, description="[HOST:]PORT to fetch by C-MOVE; else C-GET.")
    push: bool = Field(default=False, description="Whether to send the masks there; needs a DICOM output_type.")

    def client(self) -> Client:
        """A connection to it.

        Raises:
            ConfigError: If the address, a file or the credentials cannot be used.
        """
        credentials = read_credentials(self.credentials) if self.credentials else None
        tls = Tls(self.ca, self.cert, self.key)
        return connect(parse(self.server, credentials=credentials, tls=tls, own_title=self.aet, listen=self.listen))


class PacsQuery(Pacs):
    """The series of a PACS that shall lie in the root folder; no field for what names a patient."""

    date: str = Field(pattern=r"^\d{8}(-\d{8})?$", description="Studies of these days: YYYYMMDD or YYYYMMDD-YYYYMMDD.")
    modalities: tuple[str, ...] = Field(default=(), description="These series only, such as CT.")


class Processing(BaseModel):
    """How scans are segmented, whichever they are."""

    model_config = ConfigDict(extra="forbid")

    settings: PredictConfig = Field(
        default_factory=PredictConfig, description="As in configs/predict, under the names of the options of `predict`."
    )
    frame: int | None = Field(default=None, ge=0, description="Which volume of a 4D file, from 0.")
    geometry: Literal["repair", "strict"] = Field(default="repair", description="Gaps and uneven slices.")
    prefer: Literal["latest"] | None = Field(default=None, description="Of contradicting slices; empty: refuse.")

    @property
    def how(self) -> dict[str, Any]:
        """The arguments that all of `Runner`, `Triage` and `run_batch` take besides the settings."""
        return {"frame": self.frame, "options": ScanOptions(self.geometry, self.prefer)}

    def alone(self) -> Processing:
        """This part of a request."""
        return Processing.model_validate(self.model_dump(include=set(Processing.model_fields)))


class StudyRequest(Processing):
    """One study to segment; paths are those of the machine that the worker runs on."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_PUSHED_IS_DICOM)

    study: str = Field(
        min_length=1,
        description="A scan's file, an archive, or a folder with one or more scans; with `pacs`: Study Instance UID.",
    )
    output: Path = Field(description="Folder of the results.")
    pacs: Pacs | None = Field(default=None, description="Where the study is fetched from.")
    reference: Path | None = Field(
        default=None, description="A label file to compare the mask with; for a study of one scan."
    )

    @field_validator("study", mode="before")
    @classmethod
    def as_text(cls, value: object) -> object:
        """Paths become text."""
        return str(value) if isinstance(value, Path) else value

    @model_validator(mode="after")
    def check(self) -> StudyRequest:
        """What no single field can tell."""
        _check_push(self.pacs, self.settings)
        if self.pacs is not None:
            try:
                check_uid(self.study, "study")
            except MedsegError as error:
                raise ValueError(str(error)) from None
        return self


class ArchiveRequest(Processing):
    """A folder of studies, of which what has no result or a stale one is segmented."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_PUSHED_IS_DICOM)

    root: Path = Field(description="Folder of the scans.")
    output: Path = Field(description="Folder of the results.")
    pacs: PacsQuery | None = Field(default=None, description="What to fetch into the root folder first.")
    chunk: int = Field(default=25, ge=1, le=500, description="Studies a flow run.")
    retry_failed: bool = Field(default=False, description="Also what failed before and has not changed.")

    @model_validator(mode="after")
    def check(self) -> ArchiveRequest:
        """What no single field can tell."""
        _check_push(self.pacs, self.settings)
        return self


def _check_push(pacs: Pacs | None, settings: PredictConfig) -> None:
    if pacs is not None and pacs.push and settings.output_type not in _DICOM:
        raise ValueError(f"push: a PACS takes DICOM; set output_type to one of {', '.join(_DICOM)}.")

"""What a mask is called, and what a DICOM mask refers to."""

from __future__ import annotations

from pathlib import Path

from medseg.errors import ConfigError
from medseg.inputs import Input

# What a mask is called after its scan, by output type.
MASK_ENDINGS = {
    "nifti": "_seg.nii.gz",
    "dicom-seg": "_seg.dcm",
    "dicom-seg-binary": "_seg.dcm",
    "dicom-rtstruct": "_rtstruct.dcm",
}

_NIFTI_SUFFIXES = (".nii.gz", ".nii")
_DICOM_SUFFIXES = (".dcm",)


def is_mask(output: Path | None, output_type: str) -> bool:
    """Whether an output is the mask itself, by its ending, and not a folder.

    Raises:
        ConfigError: If the ending belongs to another output type.
    """
    if output is None or output.is_dir():
        return False
    is_nifti = output_type == "nifti"
    ours = _NIFTI_SUFFIXES if is_nifti else _DICOM_SUFFIXES
    others = _DICOM_SUFFIXES if is_nifti else _NIFTI_SUFFIXES
    name = output.name.lower()
    if name.endswith(others):
        raise ConfigError(f"{output}: --output-type {output_type} is written to {ours[0]}; give another ending.")
    return name.endswith(ours)


def source_of(scan: Input, output_type: str) -> tuple[Path, ...]:
    """The files that a DICOM output refers to; none for other outputs.

    Raises:
        ConfigError: If the scan is not DICOM.
    """
    if output_type == "nifti":
        return ()
    series = scan.series[0]
    if series.format != "dicom":
        where = series.container or series.paths[0]
        raise ConfigError(
            f"{where}: --output-type {output_type} refers to the DICOM slices of the scan,"
            f" and this is {series.format}; segment the DICOM series, or write nifti and use `medseg convert --source`."
        )
    return series.paths

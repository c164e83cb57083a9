"""`medseg inspect` and `medseg convert`: what files hold, and labels from one format to another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from medseg.errors import InputError
from medseg.options import FILE, scan_options, silence_libraries


@click.command()
@click.argument("labels", type=FILE)
@click.argument("output", type=FILE)
@click.option("--source", metavar="SCAN", type=FILE, help="The series that the labels belong to.")
@click.option("--output-type", metavar="TYPE", help="As of predict; default: by OUTPUT's ending (.dcm: dicom-seg).")
@click.option("--frame", type=click.IntRange(min=0), help="Which volume of a 4D source, from 0.")
@click.option("--geometry", type=click.Choice(["repair", "strict"]), default="repair", help="As `predict` has it.")
@click.option("--prefer", type=click.Choice(["latest"]), help="As `predict` has it.")
@click.option("--roi-subset", multiple=True, metavar="LABEL,...", help="Convert these labels only.")
@click.option("--algorithm", metavar="NAME", help="What made the labels; unknown if not given.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout.")
def convert(labels: Path, output: Path, roi_subset: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Convert labels between NIfTI, DICOM SEG and RTSTRUCT.

    To DICOM, and from RTSTRUCT, --source has to be given. With it, NIfTI is
    written on the scan's own grid.

    \b
    medseg convert scan_seg.nii.gz scan_seg.dcm --source dicom_folder
    medseg convert plan.dcm plan.nii.gz --source dicom_folder
    medseg convert seg.dcm plan.dcm --source dicom_folder \\
        --output-type dicom-rtstruct
    """
    silence_libraries(verbose=False)
    from medseg.convert import convert as run

    names = [name.strip() for several in roi_subset for name in several.split(",")]
    reading = scan_options(options)
    findings = run(labels, output, names=names, options=reading, **options)
    if as_json:
        notes = [{"code": finding.code, "message": finding.message} for finding in findings]
        click.echo(json.dumps({"output": str(output), "findings": notes}))
        return
    click.echo(output)
    for finding in findings:
        click.echo(f"note: {finding}", err=True)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--geometry", type=click.Choice(["repair", "strict"]), default="repair", help="As `predict` has it.")
@click.option("--prefer", type=click.Choice(["latest"]), help="As `predict` has it.")
@click.option("--keep-identifiers", is_flag=True, help="Show descriptions and ids as they are: patient data.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout.")
def inspect(paths: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Tell what files or folders hold, without reading voxels.

    PATH is a file, folder, glob, zip, tar or DICOMDIR. Lists every scan with its
    grid, doubts and whether `predict` would take it, and every other file with
    the reason why it is none. Ends with 3 if no scan can be read.
    """
    from medseg.console import FileProgress, study_json, study_text
    from medseg.formats import scan
    from medseg.study import ScanOptions

    with FileProgress() as progress:
        study = scan(paths, options=ScanOptions(**options), progress=progress.done)
    click.echo(json.dumps(study_json(study)) if as_json else study_text(study))
    if not study.readable:
        raise InputError(f"{' '.join(paths)}: no scan here can be read; the list says why.")

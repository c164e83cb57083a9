"""`medseg evaluate`: label files against their references."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import click

from medseg.errors import BatchError

_FILE = click.Path(path_type=Path)
_PLANES = ("axial", "coronal", "sagittal", "acquired")


@click.command()
@click.argument("reference", type=_FILE)
@click.argument("prediction", type=_FILE)
@click.option("-o", "--output", type=_FILE, help="Folder for summary.json, metrics.csv, report.html; or a .json file.")
@click.option("--resample", is_flag=True, help="Bring predictions onto the reference's grid (nearest).")
@click.option("--images", type=_FILE, help="The scans, for the pictures in the report.")
@click.option("--versus", "second", type=_FILE, help="A second prediction, compared case by case.")
@click.option("--map", "mapping", type=_FILE, metavar="FILE|names", help="Which label of PREDICTION is which.")
@click.option("--merge", multiple=True, metavar="'A = A + B'", help="Measure labels as one, by name or number.")
@click.option("--ignore", type=click.IntRange(min=1), help="Leave out voxels with this label in REFERENCE.")
@click.option("--tolerance", "tolerance_mm", type=click.FloatRange(min=0), default=1.0, help="Of surface Dice, in mm.")
@click.option("--per-slice", metavar="PLANE", type=click.Choice(_PLANES), help="Measure each slice for itself, in 2D.")
@click.option("--metrics", metavar="NAME,...", help="These metrics only; the report explains each.")
@click.option("--show-names", is_flag=True, help="Show file names even where they may identify a patient.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout instead of the table.")
def evaluate(
    reference: Path, prediction: Path, output: Path | None, mapping: Path | None, as_json: bool, **options: Any
) -> None:
    """Compare label files with their references.

    Two files, or two folders whose files are paired by name (CASE and CASE_seg
    are one). Files whose axes are in another order are compared where they lie in
    space; other grids need --resample. Names of labels come from the files. A
    file may be NIfTI, NRRD, MetaImage, DICOM SEG or RTSTRUCT.

    --map FILE is YAML or JSON, {label of PREDICTION: label of REFERENCE}, each a
    name or else a number; 0 is background. --map names makes labels of one name
    one, whatever their numbers. --per-slice takes axial, coronal, sagittal, or
    acquired: the plane across the thickest voxels. A case's value is then the
    mean over the slices that have the label; volumes are of the whole.

    \b
    medseg evaluate truth.nii.gz scan_seg.nii.gz
    medseg evaluate truth.nii.gz seg.dcm --merge 'liver = liver + lesion'
    medseg evaluate labelsTs/ results/ --images imagesTs/ -o report
    medseg evaluate labelsTs/ a/ --versus b/ --per-slice axial -o report
    """
    warnings.simplefilter("ignore")  # of the libraries: stderr shall hold one line an error
    from medseg.console import counting, evaluation_json, evaluation_text
    from medseg.evaluating import Paths, evaluate_paths, write_evaluation
    from medseg.report import measuring_of

    paths = Paths(reference, prediction, options.pop("second"), options.pop("images"))
    resample, show_names = options.pop("resample"), options.pop("show_names")
    with counting("comparing", "cases") as progress:
        done = evaluate_paths(
            paths,
            measuring_of(mapping=mapping, **options),
            resample=resample,
            show_names=show_names,
            with_pictures=output is not None and output.suffix != ".json",
            progress=progress,
        )
    alone = reference.is_file() and prediction.is_file()
    if alone and done.cohort.cases[0].problem is not None:
        raise done.cohort.cases[0].problem
    if output is not None:
        write_evaluation(done, output)
    click.echo(evaluation_json(done.cohort, alone) if as_json else evaluation_text(done.cohort, alone))
    failed = [case.name for case in done.cohort.cases if case.error] + list(done.cohort.missing)
    if failed:
        total = len(done.cohort.cases) + len(done.cohort.missing)
        raise BatchError(f"{len(failed)} of {total} cases failed or have no prediction: {', '.join(failed)}.")

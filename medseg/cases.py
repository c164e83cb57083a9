"""Scans and where their results go, before anything is segmented. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg import __version__
from medseg.choice import Choice
from medseg.errors import ConfigError
from medseg.formats import Algorithm
from medseg.inputs import Input
from medseg.labels import LabelSet
from medseg.ledger import Identity, Record, Status, own_folder
from medseg.outputs import MASK_ENDINGS, is_mask
from medseg.study import ScanOptions

# Given the labels and what made them: {path: text}.
Sidecars = Callable[[LabelSet, Algorithm], Mapping[Path, str]]


@dataclass(frozen=True)
class Case:
    """A scan and where its results go.

    Attributes:
        input: The scan.
        mask: The label file.
        folder: Where statistics.json, preview.png and run.json go, unless another mask's are there already.
        sidecars: Texts that go beside the mask; None for none.
    """

    input: Input
    mask: Path
    folder: Path
    sidecars: Sidecars | None = None


@dataclass(frozen=True)
class Result:
    """What became of a case.

    Attributes:
        case: Which.
        status: Why it was done, or `Status.DONE` if it was left alone; None if it failed.
        folder: Where its record lies.
        record: Of the outputs that were made; None if none were.
        error: Why it failed: a `MedsegError`, or a bug.
    """

    case: Case
    status: Status | None
    folder: Path
    record: Record | None = None
    error: Exception | None = None


def plan_cases(inputs: Sequence[Input], output: Path | None, output_type: str = "nifti") -> tuple[Case, ...]:
    """Where the results of each scan go.

    Without an output, and for an output that is a file: the mask there (beside the scan, as NAME_seg.nii.gz), the rest
    in a folder of the mask's name. For a folder: all of it in there, in a sub-folder for each of several scans.

    Raises:
        ConfigError: If several scans are to become one file, a mask would replace its scan, or its ending belongs to
            another output type.
    """
    is_file = is_mask(output, output_type)
    ending = MASK_ENDINGS[output_type]
    if is_file and len(inputs) > 1:
        raise ConfigError(f"{output}: one file for {len(inputs)} scans; give a folder.")
    cases = []
    for one in inputs:
        if output is None or is_file:
            mask = output or one.beside / f"{one.name}{ending}"
            folder = own_folder(mask)
        else:
            folder = output / one.name if len(inputs) > 1 else output
            mask = folder / f"{one.name}{ending}"
        if mask.resolve() in {path.resolve() for path in one.paths}:
            raise ConfigError(f"{mask}: would replace the scan itself; choose another output.")
        cases.append(Case(one, mask, folder))
    return tuple(cases)


def plan_tree(inputs: Sequence[Input], root: Path, output: Path, output_type: str = "nifti") -> tuple[Case, ...]:
    """The same for a folder that scans are added to: each has a folder of its own, at its place in the tree.

    What is there already keeps its place when a scan is added. The results of a flat folder's scans lie where
    `plan_cases` puts them.

    Raises:
        ConfigError: If a mask would replace its scan.
    """
    top = root.resolve()
    cases = []
    for one in inputs:
        beside = one.beside.resolve()
        below = beside.relative_to(top) if beside.is_relative_to(top) else Path()
        folder = output / below / one.name
        mask = folder / f"{one.name}{MASK_ENDINGS[output_type]}"
        if mask.resolve() in {path.resolve() for path in one.paths}:
            raise ConfigError(f"{mask}: would replace the scan itself; choose another output.")
        cases.append(Case(one, mask, folder))
    return tuple(cases)


def identity_of(choice: Choice, frame: int | None, options: ScanOptions, input_sha256: str) -> Identity:
    """What decides the outputs of a case."""
    reading = {"frame": frame, "geometry": options.geometry, "prefer": options.prefer}
    return Identity(input_sha256, choice.info.sha256, {**choice.to_json(), **reading}, __version__)

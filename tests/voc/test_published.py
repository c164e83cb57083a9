import csv
import io
import json
import re

import pytest
from click.testing import CliRunner

from medseg.cli import main
from medseg.voc.published import published

PAPERS = ("fcn8s", "segnet", "dilated", "deeplabv1", "deeplabv2", "crfrnn", "refinenet", "pspnet", "gcn", "deeplabv3")


def table(*words):
    return CliRunner().invoke(main, ["voc", "table", *words])


def test_text_csv_and_json_hold_the_same_figures():
    from_json = json.loads(table("--format", "json").stdout)
    from_csv = list(csv.DictReader(io.StringIO(table("--format", "csv").stdout)))
    assert [{**row, "miou": float(row["miou"])} for row in from_csv] == from_json
    shown = re.findall(r"^ +(\d\d\.\d\d)  ", table().stdout, flags=re.MULTILINE)
    assert max(map(len, table().stdout.splitlines())) <= 80
    assert [float(value) for value in shown] == [row["miou"] for row in from_json]


@pytest.mark.parametrize("architecture", PAPERS)
def test_every_surveyed_architecture_has_a_figure_with_conditions_and_source(architecture):
    rows = [row for row in published() if row.architecture == architecture]
    assert rows
    assert all(row.conditions and row.source and 30 < row.miou < 90 for row in rows)


@pytest.mark.parametrize(
    ("architecture", "set_", "miou"),
    [("fcn8s", "test", 62.2), ("crfrnn", "test", 74.7), ("pspnet", "val", 79.63), ("deeplabv3", "val", 79.77)],
)
def test_figures_are_those_of_the_papers(architecture, set_, miou):
    assert (architecture, set_, miou) in {(row.architecture, row.set, row.miou) for row in published()}


def test_unknown_architecture_lists_those_with_figures():
    result = table("--architecture", "resnet9000")
    assert result.exit_code == 2
    assert "fcn8s" in result.stderr

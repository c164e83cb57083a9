import pytest

from medseg.report.privacy import shown_names


@pytest.mark.parametrize(
    "name", ["case_001", "hippocampus_367", "s0123", "BRATS_485", "2007_000032", "sub-OAS30001", "CT_Liver_12"]
)
def test_names_of_data_sets_are_shown(name):
    assert shown_names([name], show_all=False) == {name: name}


@pytest.mark.parametrize(
    "name",
    ["DOE^JANE", "Doe, Jane", "Doe_Jane", "scan DOE JANE 2", "Müller-Łucja", "mr_1970-01-02", "02.01.1970", "7654321"],
)
def test_names_dates_and_long_numbers_are_withheld_and_shown_on_demand(name):
    assert shown_names([name], show_all=False) == {name: "case 1 (name withheld)"}
    assert shown_names([name], show_all=True) == {name: name}

"""Who a patient is does not show."""

import pytest

from medseg.opaque import hide, identifying, opaque, secret

WORDS = identifying("Müller-Lee^Anna Maria^^Dr", ("PID 123-45", "A77"), "19700203")


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("ct_abdomen_01", "ct_abdomen_01"),
        ("MÜLLER_ANNA_CT", "X_CT"),
        ("mariact", "Xct"),
        ("ct_müller^anna maria_2", "ct_X_2"),
        ("PID12345_ct", "X_ct"),
        ("ct-pid 123-45", "ct-X"),
        ("scan_1970-02-03", "scan_X"),
        ("03.02.1970 scan", "X scan"),
        ("lee_t1", "X_t1"),
        ("sleep_study", "sleep_study"),
        ("a77", "X"),
        ("a771", "a771"),
    ],
)
def test_names_lose_what_tells_who_the_patient_is_and_nothing_else(name, hidden):
    assert hide(name, WORDS, "X") == hidden


def test_names_in_other_writings_are_hidden():
    assert hide("山田太郎_ct", identifying("山田^太郎", (), ""), "X") == "X_ct"


def test_empty_identity_hides_nothing():
    assert hide("scan ct", identifying("", ("", ""), "unknown"), "X") == "scan ct"


def test_secret_is_made_once_and_for_its_owner_alone(tmp_path):
    first = secret(tmp_path / "deep" / "key")
    secret.cache_clear()
    assert secret(tmp_path / "deep" / "key") == first
    assert (tmp_path / "deep" / "key").stat().st_mode & 0o077 == 0
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["key"]
    assert opaque("a", first) == opaque("a", first) != opaque("a", secret(tmp_path / "other"))


def test_without_a_place_for_it_the_secret_is_of_this_process(tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert len(secret(tmp_path / "file" / "key")) == 32

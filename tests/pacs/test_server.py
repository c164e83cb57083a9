import pytest

from medseg.errors import ConfigError
from medseg.pacs.server import Credentials, Tls, parse, read_credentials

SECRET = Credentials("me", "hush-hush")


def test_address_names_protocol_host_port_and_title():
    web = parse("https://pacs.example/dicom-web/")
    assert (web.web, web.encrypted, web.url) == (True, True, "https://pacs.example:443/dicom-web")
    dimse = parse("dicoms://PACS@pacs.example")
    assert (dimse.web, dimse.encrypted, dimse.url) == (False, True, "dicoms://PACS@pacs.example:2762")
    assert (dimse.title, dimse.port) == ("PACS", 2762)
    assert parse("dicom://PACS@[::1]:4242", listen="11112").listen == ("", 11112)


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        ("pacs.example", {}, "not an address"),
        ("ftp://pacs.example", {}, "not an address"),
        ("https://pacs.example:port/x", {}, "not an address"),
        ("dicom://pacs.example:4242", {}, "not an address"),
        ("https://me:hush-hush@pacs.example/x", {}, "--credentials"),
        ("dicom://A:hush-hush@pacs.example", {}, "--credentials"),
        ("dicom://SEVENTEENLETTERSXX@pacs.example", {}, "AE title"),
        ("dicom://PACS@pacs.example", {"own_title": ""}, "AE title"),
        ("http://pacs.example/x", {"credentials": SECRET}, "unencrypted; use https"),
        ("dicom://PACS@pacs.example", {"credentials": SECRET}, "unencrypted; use dicoms"),
        ("dicoms://PACS@pacs.example", {"credentials": Credentials(token="hush-hush")}, "token is for DICOMweb"),
        ("http://pacs.example/x", {"tls": Tls(ca="ca.pem")}, "--ca"),
        ("https://pacs.example/x", {"listen": "11112"}, "C-MOVE"),
        ("dicom://PACS@pacs.example", {"listen": "70000"}, "not a port"),
        ("dicoms://PACS@pacs.example", {"listen": "11112"}, "needs --cert"),
    ],
)
def test_address_that_is_none_or_not_private_is_refused_without_its_secret(address, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse(address, **options)
    assert "hush-hush" not in str(caught.value)


def test_credentials_go_unencrypted_to_this_machine_only():
    assert parse("http://127.0.0.1:8042/x", credentials=SECRET).credentials == SECRET


def test_nothing_that_prints_a_server_prints_its_password():
    server = parse("https://pacs.example/x", credentials=SECRET)
    for text in (repr(server), str(server), server.url, repr(SECRET)):
        assert "hush-hush" not in text


def test_password_of_digits_stays_text(tmp_path):
    file = tmp_path / "me.yaml"
    file.write_text("user: me\npassword: 0123\n")
    file.chmod(0o600)
    assert read_credentials(file) == Credentials("me", "0123")


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ("user: me\npassword: hush-hush\n", 0o644, "chmod 600"),
        ("user: me\n", 0o600, "must hold"),
        ("user: me\npassword: hush-hush\nhost: x\n", 0o600, "must hold"),
        ("token: [hush-hush]\n", 0o600, "must be text"),
        ("user: me\npassword: ''\n", 0o600, "must be text"),
        ("hush-hush", 0o600, "must hold"),
        ("user: {hush-hush", 0o600, "not a YAML file"),
    ],
)
def test_credentials_file_that_is_wrong_is_refused_without_its_content(tmp_path, content, mode, message):
    file = tmp_path / "me.yaml"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(ConfigError, match=message) as caught:
        read_credentials(file)
    assert "hush-hush" not in str(caught.value)


def test_tls_file_that_cannot_be_used_is_one_line(tmp_path):
    (tmp_path / "no.pem").write_text("no certificate")
    for tls in (Tls(ca=tmp_path / "absent.pem"), Tls(ca=tmp_path / "no.pem"), Tls(certificate=tmp_path / "no.pem")):
        with pytest.raises(ConfigError, match="--ca, --cert or --key cannot be used"):
            tls.context()

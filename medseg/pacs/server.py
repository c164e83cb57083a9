"""Where a PACS is, who we are to it, and how the connection is kept private."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from medseg.errors import ConfigError

_PORTS = {"http": 80, "https": 443, "dicom": 104, "dicoms": 2762}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TITLE = 16  # characters of an AE title
_OTHERS_MAY_READ = 0o077
_LIBRARIES = (
    "pynetdicom",
    "dicomweb_client",
    "urllib3",
    "requests",
    "retrying",
)  # their logs hold queries, headers and data sets


@dataclass(frozen=True)
class Credentials:
    """A user's name and password, or a bearer token; never shown.

    Attributes:
        user: Name; empty with a token.
        password: Of the user.
        token: For DICOMweb.
    """

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class Tls:
    """Files in PEM for an encrypted connection; the server's certificate is always verified.

    Attributes:
        ca: Authorities to trust instead of the usual ones.
        certificate: Ours, for a server that asks for one.
        key: Of the certificate; None where it is in the same file.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self, *, accepting: bool = False) -> ssl.SSLContext:
        """What a TLS socket needs.

        Args:
            accepting: Whether others connect to us; they must then have a certificate that we trust.

        Raises:
            ConfigError: If a file cannot be used.
        """
        purpose = ssl.Purpose.CLIENT_AUTH if accepting else ssl.Purpose.SERVER_AUTH
        try:
            context = ssl.create_default_context(purpose, cafile=self.ca)
            if self.certificate is not None:
                # Without the empty password a locked key would ask for one on the terminal, even of a service.
                context.load_cert_chain(self.certificate, self.key, password="")
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            reason = error.strerror or type(error).__name__ if isinstance(error, OSError) else "not usable"
            raise ConfigError(f"TLS: --ca, --cert or --key cannot be used: {reason}.") from None
        if accepting:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(frozen=True)
class Server:
    """A PACS and how to speak to it.

    Attributes:
        scheme: "http" or "https" (DICOMweb), "dicom" or "dicoms" (DIMSE).
        host: Name or address.
        port: TCP port.
        path: Of the DICOMweb service.
        title: AE title of a DIMSE server.
        credentials: Ours; None where none are needed.
        tls: For "https" and "dicoms".
        own_title: Our AE title.
        listen: Address and port on which a C-MOVE brings the images; None to ask for them with C-GET.
    """

    scheme: str
    host: str
    port: int
    path: str = ""
    title: str = ""
    credentials: Credentials | None = None
    tls: Tls = Tls()
    own_title: str = "MEDSEG"
    listen: tuple[str, int] | None = None

    @property
    def encrypted(self) -> bool:
        """Whether the connection is by TLS."""
        return self.scheme in {"https", "dicoms"}

    @property
    def web(self) -> bool:
        """Whether it speaks DICOMweb."""
        return self.scheme in {"http", "https"}

    @property
    def url(self) -> str:
        """The address, as DICOMweb takes it and as messages name it; it never holds a secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{self.title + '@' if self.title else ''}{host}:{self.port}{self.path}"


def parse(
    address: str,
    *,
    credentials: Credentials | None = None,
    tls: Tls | None = None,
    own_title: str = "MEDSEG",
    listen: str | None = None,
) -> Server:
    """A server from what a user writes.

    Args:
        address: "https://host/dicom-web", or "dicoms://TITLE@host:port" (also http and dicom, without encryption).
        credentials: Ours.
        tls: Files for an encrypted connection.
        own_title: Our AE title.
        listen: "PORT" or "HOST:PORT" for C-MOVE.

    Raises:
        ConfigError: If the address is none, holds a password, or would carry credentials unencrypted.
    """
    try:
        parts = urlsplit(address)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        raise _no_address() from None
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment:
        raise _no_address()
    web = parts.scheme in {"http", "https"}
    if parts.password is not None or (web and parts.username is not None):
        raise ConfigError("SERVER: holds a user or password, which shells and logs keep; use --credentials or --user.")
    if not web and (not parts.username or parts.path.strip("/")):
        raise _no_address()
    for title in (parts.username or "", own_title):
        if not web and (not title.isascii() or not title.strip() or len(title) > _TITLE or "\\" in title):
            raise ConfigError(f"AE title: must be 1 to {_TITLE} plain characters.")
    if listen is not None and web:
        raise ConfigError("--listen: is for C-MOVE, from a dicom:// or dicoms:// server.")
    server = Server(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port,
        path=parts.path.rstrip("/"),
        title="" if web else parts.username or "",
        credentials=credentials,
        tls=tls or Tls(),
        own_title=own_title,
        listen=_listening(listen) if listen is not None else None,
    )
    _check_privacy(server)
    return server


def read_credentials(path: Path) -> Credentials:
    """Credentials from a YAML file with `user` and `password`, or with `token`.

    Raises:
        ConfigError: If it cannot be read, other users can read it, or it holds anything else; no message shows content.
    """
    try:
        if os.name == "posix" and path.stat().st_mode & _OTHERS_MAY_READ:
            raise ConfigError(f"{path}: other users can read these credentials; chmod 600 {path}.")
        # BaseLoader makes text of every value, so that a password of digits stays as it is.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise ConfigError(f"{path}: credentials cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(f"{path}: not a YAML file of credentials.") from None
    kinds = ({"user", "password"}, {"token"})
    if not isinstance(content, dict) or set(content) not in kinds:
        raise ConfigError(f"{path}: must hold `user` and `password`, or `token`, and nothing else.")
    if not all(isinstance(value, str) and value for value in content.values()):
        raise ConfigError(f"{path}: every value must be text.")
    return Credentials(**content)


def silence_libraries() -> None:
    """Keep what the libraries log out of every log: requests with patients' names, and secrets."""
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


@contextmanager
def needed(extra: str) -> Iterator[None]:
    """Turn the absence of an optional package into the line that says how to install it.

    Raises:
        ConfigError: If an import fails inside the block.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; pip install 'medseg[{extra}]'.") from None


def _no_address() -> ConfigError:
    return ConfigError("SERVER: not an address; write https://HOST/PATH or dicoms://TITLE@HOST:PORT (http, dicom).")


def _listening(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ConfigError(f"--listen {text}: not a port; write PORT or HOST:PORT.")
    return host.strip("[]"), int(port)


def _check_privacy(server: Server) -> None:
    if server.credentials is not None and not server.encrypted and server.host not in _LOOPBACK:
        secure = "https" if server.web else "dicoms"
        raise ConfigError(f"{server.url}: credentials would go unencrypted; use {secure}://.")
    if server.credentials is not None and server.credentials.token and not server.web:
        raise ConfigError(f"{server.url}: a token is for DICOMweb; give user and password.")
    if not server.encrypted and server.tls != Tls():
        raise ConfigError(f"{server.url}: --ca, --cert and --key are for https:// and dicoms://.")
    if server.listen is not None and server.encrypted and server.tls.certificate is None:
        raise ConfigError("--listen: with dicoms:// needs --cert, for the connection that brings the images.")

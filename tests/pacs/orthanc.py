"""A real PACS on this machine: Orthanc, started for the tests and ended with them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

USER, PASSWORD = "radiologist", "Very%Secret:pässword"
START_S = 20
PLUGIN = "libOrthancDicomWeb.so"
FOLDERS = [Path(folder) for folder in ("/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins")]


@dataclass(frozen=True)
class Orthanc:
    web: str
    dimse: str
    listen: str
    certificate: Path | None = None
    other_certificate: Path | None = None


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def certificate(folder: Path, name: str) -> Path:
    """A certificate for this machine, with its key in the same file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, so there is no certificate to test with")
    key, own, both = folder / f"{name}.key", folder / f"{name}.crt", folder / f"{name}.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(own)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    both.write_text(own.read_text() + key.read_text())
    return both


@contextmanager
def running(folder: Path, *, secure: bool) -> Iterator[Orthanc]:
    program = shutil.which("Orthanc")
    if program is None:
        pytest.skip("Orthanc is not installed (apt-get install orthanc orthanc-dicomweb)")
    plugins = [path / PLUGIN for path in FOLDERS if (path / PLUGIN).exists()]
    if not plugins:
        pytest.skip("Orthanc's DICOMweb plugin is not installed (apt-get install orthanc-dicomweb)")
    web, dimse, listen = free_port(), free_port(), free_port()
    config = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": web,
        "DicomPort": dimse,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": secure,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "UnknownSopClassAccepted": True,
        "DicomModalities": {"medseg": ["MEDSEG", "127.0.0.1", listen]},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "Plugins": [str(plugins[0])],
    }
    own = other = None
    if secure:
        own, other = certificate(folder, "own"), certificate(folder, "other")
        config |= {
            "RegisteredUsers": {USER: PASSWORD},
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(own),
            "DicomTlsPrivateKey": str(own.with_suffix(".key")),
            "DicomTlsTrustedCertificates": str(own),
            "DicomModalities": {"medseg": {"AET": "MEDSEG", "Host": "localhost", "Port": listen, "UseDicomTls": True}},
        }
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "config.json")], stdout=log, stderr=log, cwd=folder)
    try:
        for port in (web, dimse):
            wait_for(port, process, folder / "log")
        if own is None:
            yield Orthanc(
                f"http://localhost:{web}/dicom-web", f"dicom://ORTHANC@localhost:{dimse}", f"127.0.0.1:{listen}"
            )
        else:
            with encrypting(web, own) as port:
                yield Orthanc(
                    web=f"https://localhost:{port}/dicom-web",
                    dimse=f"dicoms://ORTHANC@localhost:{dimse}",
                    listen=f"127.0.0.1:{listen}",
                    certificate=own,
                    other_certificate=other,
                )
    finally:
        process.kill()  # nothing of it is kept, and its orderly end takes five seconds
        process.wait(timeout=10)


@contextmanager
def encrypting(plain_port: int, own: Path) -> Iterator[int]:
    """A port that speaks TLS and passes all on to another: HTTPS of Debian 12's Orthanc 1.10.1 ends in a segfault."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own)

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                suppress(OSError),  # a client that does not trust us breaks off
                context.wrap_socket(self.request, server_side=True) as near,
                socket.create_connection(("127.0.0.1", plain_port), timeout=30) as far,
            ):
                back = threading.Thread(target=copy, args=(far, near), daemon=True)
                back.start()
                copy(near, far)
                back.join(timeout=30)

    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"Orthanc (pid {process.pid}, of {os.getpid()}) did not start:\n{log.read_text()[-2000:]}")

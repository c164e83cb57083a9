"""Who a patient is does not show in what medseg writes: opaque ids, and names of files without names of people.

An opaque id is keyed (HMAC-SHA-256) with a secret that stays on this machine, so that nobody can find out from a list
of patients or of UIDs to whom it belongs; the same value has the same id in every run.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

_KEY_BYTES = 32
_DIGITS = 12
_SHORTEST = 3  # of a word that is looked for; two letters for writings that need no more for a name
_ANYWHERE = 5  # words of so many characters are found within others too


def opaque(value: str, key: bytes) -> str:
    """The opaque id of a value: 12 hexadecimal digits."""
    return fingerprint(value, key)[:_DIGITS]


def fingerprint(value: str, key: bytes) -> str:
    """The same in full, 64 digits: two values have one only if they are equal."""
    return hmac.new(key, value.encode(errors="replace"), hashlib.sha256).hexdigest()


@lru_cache(maxsize=8)
def secret(path: Path | None = None) -> bytes:
    """The secret in a file that only its owner can read, which is made where there is none.

    Args:
        path: The file; None for the user's own, medseg/key below $XDG_CONFIG_HOME or ~/.config.

    Returns:
        A secret of this process alone, where the file can be neither read nor made.
    """
    if path is None:
        path = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "medseg" / "key"
    made = secrets.token_bytes(_KEY_BYTES)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(made)
        try:
            os.link(part, path)  # whole or not at all, and never over the one of another process
        except FileExistsError:
            made = path.read_bytes()
        finally:
            part.unlink()
    except OSError:
        try:
            made = path.read_bytes()
        except OSError:
            return made
    return made


def identifying(name: str, others: Iterable[str], birth_date: str) -> tuple[str, ...]:
    """The words that would tell who a patient is, longest first.

    Args:
        name: PatientName, whose parts count one by one.
        others: PatientID, accession number.
        birth_date: YYYYMMDD, which counts as DDMMYYYY and MMDDYYYY too.
    """
    words = {re.sub(r"[\W_]", "", word) for word in (*re.split(r"[\^=\s,._\\-]+", name), *others)}
    if re.fullmatch(r"\d{8}", birth_date):
        year, month, day = birth_date[:4], birth_date[4:6], birth_date[6:]
        words |= {birth_date, day + month + year, month + day + year}
    words = {word.casefold() for word in words if len(word) >= (_SHORTEST if word.isascii() else 2)}
    return tuple(sorted(words, key=lambda word: (-len(word), word)))


def hide(text: str, words: Iterable[str], instead: str) -> str:
    """A text in which words that would tell who a patient is are replaced, several in a row by one.

    Args:
        text: Such as the name of a file.
        words: As `identifying` gives them.
        instead: What stands for the patient.
    """
    patterns = []
    for word in words:
        pattern = r"[\W_]?".join(map(re.escape, word)) if any(c.isdigit() for c in word) else re.escape(word)
        alone = (r"(?<![^\W_])", r"(?![^\W_])") if len(word) < _ANYWHERE and word.isascii() else ("", "")
        patterns.append(f"{alone[0]}{pattern}{alone[1]}")
    if not patterns:
        return text
    one = f"(?:{'|'.join(patterns)})"
    return re.sub(rf"{one}(?:[\W_]*{one})*", lambda _: instead, text, flags=re.IGNORECASE)

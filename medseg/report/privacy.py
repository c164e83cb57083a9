"""Names of files that may be names of people."""

from __future__ import annotations

import re
from collections.abc import Sequence

# A DICOM person name, a date (of birth), or a number as long as a hospital's.
_IDENTIFYING = re.compile(r"\^|(?<!\d)(19|20)\d{2}[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])(?!\d)|\d{7,}")


def shown_names(names: Sequence[str], *, show_all: bool) -> dict[str, str]:
    """What stands in reports for each name: itself, or "case N" where it looks as if it could identify a patient."""
    ordered = sorted(set(names))
    return {
        name: f"case {number} (name withheld)" if _IDENTIFYING.search(name) and not show_all else name
        for number, name in enumerate(ordered, start=1)
    }

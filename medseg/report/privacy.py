"""Names of files that may be names of people.

A name is withheld where it holds what identifies a patient in most hospitals' file names:

- a caret or a comma, as DICOM and lists write person names (DOE^JANE);
- a date between 1900 and 2099, in either order (1970-01-02, 02.01.1970, 19700102);
- a number of seven digits or more: of a patient, an accession or a UID;
- two capitalised words in succession (Doe_Jane, DOE JANE), imaging's own words left out.

No rule knows every name ("doe_jane" passes), and data sets may have such names too: --show-names brings them back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

_YEAR, _MONTH, _DAY = r"(19|20)\d{2}", r"(0[1-9]|1[0-2])", r"(0[1-9]|[12]\d|3[01])"
_IDENTIFYING = re.compile(
    rf"[\^,]|\d{{7,}}|(?<!\d){_YEAR}[-_. ]?{_MONTH}[-_. ]?{_DAY}(?!\d)|(?<!\d){_DAY}[-_. ]?{_MONTH}[-_. ]?{_YEAR}(?!\d)"
)
_WORD = re.compile(r"[^\W_]+")
_OF_IMAGING = {"CT", "CBCT", "MR", "MRI", "PET", "US", "DX", "XR", "SEG", "GT", "DWI", "ADC", "FLAIR", "DICOM"}


def is_identifying(name: str) -> bool:
    """Whether a file's name looks as if it could identify a patient."""
    return bool(_IDENTIFYING.search(name)) or any(
        _is_capitalised(first) and _is_capitalised(second) for first, second in pairwise(_WORD.findall(name))
    )


def shown_names(names: Sequence[str], *, show_all: bool) -> dict[str, str]:
    """What stands in reports for each name: itself, or "case N" where it looks as if it could identify a patient."""
    ordered = sorted(set(names))
    return {
        name: f"case {number} (name withheld)" if is_identifying(name) and not show_all else name
        for number, name in enumerate(ordered, start=1)
    }


def _is_capitalised(word: str) -> bool:
    return len(word) > 1 and word.isalpha() and word[0].isupper() and word.upper() not in _OF_IMAGING

"""Values of DICOM headers as real files have them, and libraries that neither talk about them nor stumble over them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset

from medseg.errors import GeometryError, InputError, MedsegError
from medseg.formats.base import shown

LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0))


def text_of(value: object, limit: int) -> str:
    """A header's text without characters that no header may have, of at most `limit` characters."""
    return "".join(c if c.isprintable() and c != "\\" else " " for c in str(value or ""))[:limit].strip()


def numbers(data: Dataset, keyword: str, count: int) -> NDArray[np.float64] | None:
    """The numbers of an attribute; None if they are absent, too few, too many or not finite."""
    try:
        values = np.atleast_1d(np.asarray(data.get(keyword), dtype=np.float64))
    except (TypeError, ValueError):
        return None
    return values if values.shape == (count,) and np.isfinite(values).all() else None


def macro(groups: Sequence[Dataset], sequence: str) -> Dataset:
    """The item of a functional group, from the frame's own groups or else from the shared ones."""
    for group in groups:
        if group.get(sequence):
            item: Dataset = group[sequence].value[0]
            return item
    return Dataset()


@contextmanager
def quiet() -> Iterator[None]:
    """Libraries quote values in warnings and refuse what real headers hold; values may be a patient's name."""
    settings = pydicom_config.settings
    modes = settings.reading_validation_mode, settings.writing_validation_mode
    loggers = [(logger, logger.level) for logger in (pydicom_config.logger, logging.getLogger("highdicom"))]
    settings.reading_validation_mode = settings.writing_validation_mode = pydicom_config.IGNORE
    for logger, _ in loggers:
        logger.setLevel("CRITICAL")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        settings.reading_validation_mode, settings.writing_validation_mode = modes
        for logger, level in loggers:
            logger.setLevel(level)


@contextmanager
def told(path: Path, what: str) -> Iterator[None]:
    """Whatever goes wrong with a file becomes one line that names it.

    Raises:
        InputError: If the file is damaged.
    """
    try:
        yield
    except (InputError, GeometryError) as error:
        if shown(path) in str(error):
            raise
        raise type(error)(f"{shown(path)}: {error}") from None
    except (MedsegError, MemoryError):
        raise
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read ({error.strerror}); check the file.") from None
    except Exception as error:  # pydicom raises whatever it likes on damaged data
        kind = type(error).__name__
        raise InputError(
            f"{shown(path)}: {what} is damaged or cannot be decoded ({kind}); copy the file again."
        ) from None

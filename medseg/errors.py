"""What can go wrong that a user can mend.

    MedsegError                exit code 2   usage: an option, a configuration, a model that does not fit
    ├── ConfigError            exit code 2   a configuration file or a setting is wrong
    ├── ModelError             exit code 2   a model is unknown, damaged, or does not accept the scan
    ├── InputError             exit code 3   a file is missing, damaged, or not a scan
    ├── GeometryError          exit code 4   where the voxels lie is unknown, or two grids differ
    ├── ResourceError          exit code 5   memory or disk is not enough
    ├── BatchError             exit code 6   one or more cases of a batch failed
    ├── ServerError            exit code 7   a PACS cannot be reached, refuses, or sends less than it should
    └── VerificationError      exit code 1   a file that was written does not hold what was in memory

Every message is one line: what was found, where, and what to do about it. Anything that is not a
`MedsegError` is a bug: it keeps its traceback, and the program exits with 1.
"""


class MedsegError(Exception):
    """Base of every error that a user can cause and mend."""

    exit_code = 2


class ConfigError(MedsegError):
    """A configuration file or a setting is wrong."""


class ModelError(MedsegError):
    """A model is unknown, damaged, or does not accept the scan."""


class InputError(MedsegError):
    """A file is missing, damaged, or does not hold a scan."""

    exit_code = 3


class GeometryError(MedsegError):
    """Where the voxels lie is unknown or refused, or two grids differ."""

    exit_code = 4


class ResourceError(MedsegError):
    """Memory or disk is not enough."""

    exit_code = 5


class BatchError(MedsegError):
    """One or more cases of a batch failed; the others are complete."""

    exit_code = 6


class ServerError(MedsegError):
    """A PACS cannot be reached, refuses a request, or does not send all that it should."""

    exit_code = 7


class VerificationError(MedsegError):
    """A file that was just written, read back, does not hold what was in memory: a fault of ours, not the user's."""

    exit_code = 1

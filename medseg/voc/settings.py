"""From words on a command line to settings of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from medseg.errors import ConfigError


def parse_settings(words: Sequence[str]) -> dict[str, Any]:
    """{"depth": 101} from ["depth=101"]; values as YAML has them.

    Raises:
        ConfigError: If a word has no "=", or its value is not YAML.
    """
    settings = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"Setting {word!r} is not of the form NAME=VALUE.")
        try:
            settings[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"Setting {word!r}: the value cannot be read.") from None
    return settings

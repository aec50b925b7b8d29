"""The released JSON configurations, looked up so that what is missing or wrong is named by its whole path.

Sizes have a limit: a configuration is often a file from elsewhere, and one number in it can ask for any memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Options"]

_LARGEST = 2**16  # of a size; the released configurations have 1200 and less
_MOST = 1000  # layers; they have 30 and less


class Options:
    """A section of a configuration.

    :param values: the section as JSON has it.
    :param path: its name in messages, "" for the whole.
    :raises ValueError: where it is no section; every look-up raises it, too, naming the key.
    """

    def __init__(self, values: Any, path: str = ""):
        if not isinstance(values, Mapping):
            raise ValueError(f"{path or 'the configuration'} is {values!r:.60}, expected options by name")
        self._values, self._path = values, path

    def name(self, key: str) -> str:
        """Return the whole path of a key, "cnn_layer.filter_size"."""
        return f"{self._path}.{key}" if self._path else key

    def get(self, key: str, default: Any) -> Any:
        """Return an option as it is, or ``default`` where there is none."""
        return self._values.get(key, default)

    def section(self, key: str, *, optional: bool = False) -> Options:
        """Return a section; an optional one that is missing or null is empty."""
        value = self._values.get(key) if optional else self._needed(key)
        return Options({} if optional and value is None else value, self.name(key))

    def sections(self) -> dict[str, Options]:
        """Return every option, all of which must be sections."""
        return {key: Options(value, self.name(key)) for key, value in self._values.items()}

    def text(self, key: str) -> str:
        """Return an option that is a string."""
        value = self._needed(key)
        if not isinstance(value, str):
            raise ValueError(f"{self.name(key)} is {value!r:.60}, expected a string")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return an option that is true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ValueError(f"{self.name(key)} is {value!r:.60}, expected true or false")
        return value

    def size(self, key: str) -> int:
        """Return an option that is a number of channels, taps or components."""
        return _whole(self._needed(key), self.name(key), 1, _LARGEST)

    def size_or(self, key: str, default: int) -> int:
        """Return an option of which that code takes what is missing or below 1 for ``default``."""
        return max(_whole(self.get(key, 0), self.name(key), -_LARGEST, _LARGEST), 0) or default

    def count(self, key: str) -> int:
        """Return an option that is a number of layers."""
        return _whole(self._needed(key), self.name(key), 0, _MOST)

    def sizes(self, key: str, *, low: int = 1) -> tuple[int, ...]:
        """Return an option that is a list of sizes or, with ``low`` 0, of places in a list."""
        values = self._needed(key)
        if not isinstance(values, list | tuple) or not 0 < len(values) <= _MOST:
            raise ValueError(f"{self.name(key)} is {values!r:.60}, expected a list of 1 to {_MOST} whole numbers")
        return tuple(_whole(value, f"{self.name(key)}[{i}]", low, _LARGEST) for i, value in enumerate(values))

    def _needed(self, key: str) -> Any:
        if key not in self._values:
            there = ", ".join(str(name)[:40] for name in list(self._values)[:20]) or "nothing"
            raise ValueError(f"there is no {self.name(key)!r} in the configuration; at that place it has {there}")
        return self._values[key]


def _whole(value: Any, name: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r:.60}, expected a whole number from {low} to {high}")
    return value

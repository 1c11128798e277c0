"""How sums of measures are merged."""

from typing import Any


def add(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The sums of both, name by name."""
    return {name: a[name] + b[name] for name in a}

"""An order of choices that nobody chose."""

import hashlib
from collections.abc import Sequence


def stable_order(item: str, choices: Sequence[str]) -> tuple[str, ...]:
    """Choices in an order that follows from the item's id and their own texts alone, not from where they stood."""
    return tuple(sorted(choices, key=lambda choice: hashlib.sha256(f"{item}\0{choice}".encode()).digest()))

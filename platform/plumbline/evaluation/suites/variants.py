"""Variants: the same request in another phrasing or language, which slices and the template monitor share."""

from plumbline.records import SuiteItem


def variant_of(item: SuiteItem) -> str:
    """`canonical`, the phrasing's name, or `language-xx` for the canonical one in another language than English."""
    if item.phrasing != "canonical":
        return item.phrasing
    return "canonical" if item.language == "en" else f"language-{item.language}"

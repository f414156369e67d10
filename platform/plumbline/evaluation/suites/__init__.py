"""Suites: held-out items on disk, public sets as they are published, and what of them training already holds."""

from plumbline.evaluation.suites.files import load_suite, read_suite, save_suite

__all__ = ["load_suite", "read_suite", "save_suite"]

"""Suites: held-out items on disk, public sets as they are published, and what of them training already holds."""

from plumbline.evaluation.suites.files import join_suites, load_suite, read_suite, read_terms, save_suite
from plumbline.evaluation.suites.private import Access, open_suite, read_log

__all__ = ["Access", "join_suites", "load_suite", "open_suite", "read_log", "read_suite", "read_terms", "save_suite"]

"""Judging: what an answer did, by instruments whose errors are measured."""

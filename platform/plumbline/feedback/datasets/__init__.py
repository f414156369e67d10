"""Versions: composing and publishing them, sides, what went before; reading, checking, describing, carrying out."""

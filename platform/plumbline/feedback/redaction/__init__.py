"""Redacting: what identifies people or opens doors, by pattern and checksum; recall is measured, not claimed."""

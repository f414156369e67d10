"""The `plumb` command: parse, call a room, print. No decision is made here."""

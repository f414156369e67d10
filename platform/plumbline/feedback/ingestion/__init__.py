"""Deciding: the ten stages from sealed events to a candidate, guards, approval, and the run that a kill survives."""

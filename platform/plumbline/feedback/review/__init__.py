"""Judging: answers before people who do not see each other, how well they agree, and what follows from it."""

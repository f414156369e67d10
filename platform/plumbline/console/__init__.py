"""What people read: the loop's story as one page, as a summary for machines, and as a closing table.

Rendering is a pure function of a `LoopStory`; only `write_report` and `print_summary` touch the world.
"""

from plumbline.console.report import render_report, write_report
from plumbline.console.story import AS_PLANNED, LineageEdge, LoopStory, Redactions, Stage, Withdrawal
from plumbline.console.terminal import print_summary
from plumbline.console.words import headline

__all__ = [
    "AS_PLANNED",
    "LineageEdge",
    "LoopStory",
    "Redactions",
    "Stage",
    "Withdrawal",
    "headline",
    "print_summary",
    "render_report",
    "write_report",
]

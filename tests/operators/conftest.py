"""A mock cluster (kmock), a real ledger, and the real operator as its own process between them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # operator_tools, which every test here imports
sys.path.insert(0, str(Path(__file__).parents[2] / "operators"))  # what is asked without a process around it

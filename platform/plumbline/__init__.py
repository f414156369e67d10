"""Plumbline: alignment SFT whose data is consented, whose objective is named and whose promotion is gated.

The package is a house with floors (see docs/house.md): a room imports only from floors below it.

    records 1 | stores 2 | policies 3 | microworld, feedback, training, evaluation 4 | serving, shadow 5
    reconcile 6 | console 7 | cli 8
"""

__version__ = "0.1.0"

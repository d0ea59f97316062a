"""Surprisal: how many bits a model needs for each character of a text, and what it expected instead.

``surprisal`` runs the model over the bytes of a text, ``lines`` turns bytes into characters of lines, ``statistics``
finds what stands out, and ``terminal``, ``records`` and ``page`` show it.  All but the page need the same memory
whatever the length of the text.
"""

from fastslow.scoring.lines import Line, scored_lines
from fastslow.scoring.statistics import LineMean, Place, SurprisingLines, SurprisingPlaces, Totals
from fastslow.scoring.surprisal import Surprisal, surprisals

__all__ = [
    "Line",
    "LineMean",
    "Place",
    "Surprisal",
    "SurprisingLines",
    "SurprisingPlaces",
    "Totals",
    "scored_lines",
    "surprisals",
]

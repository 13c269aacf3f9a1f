"""The tables and figures that can be reproduced, as data. Numbers of the paper: arXiv 2310.01403, ICLR 2024."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from clipself_d2.errors import InputError
from clipself_d2.reproduce.entries import detectors, panoptic, region_text, semantic, towers
from clipself_d2.reproduce.table import Table

SCALES = ("miniature", "paper")

ENTRIES: dict[str, Callable[[str], Table]] = {
    "1a": towers.table_1a,
    "1b": towers.table_1b,
    "1c": towers.table_1c,
    "2": towers.table_2,
    "3a": detectors.table_3a,
    "3b": detectors.table_3b,
    "4": detectors.table_4,
    "5": semantic.table_5,
    "6": panoptic.table_6,
    "7": region_text.table_7,
    "A1": towers.table_a1,
    "A2": semantic.table_a2,
    "A3": detectors.table_a3,
    "A4": detectors.table_a4,
    "A5": detectors.table_a5,
    "A6": detectors.table_a6,
    "fig3": towers.figure_3,
    "fig4": towers.figure_4,
}
ALIASES = {"3": "fig3", "a1fig": "fig3", "figa1": "fig3"}
PAPER_ONLY = {
    "3b": "OV-Shapes has no rare classes of its own; 3a is the same comparison",
    "4": "there is no second data set to transfer to; the K-Means figure is fig4",
    "A4": "there is one CLIP alone; 3a is the same comparison",
    "A6": "OV-Shapes has no rare classes of its own; A5 is the same comparison",
}
"""Entries without a miniature, and why."""


def find(name: str, scale: str) -> Table:
    """The entry of a table.

    Args:
        name: of an entry or an alias, whatever its case.
        scale: "miniature" or "paper".

    Raises:
        InputError: for an unknown name, with the known ones; for a table without a miniature.
    """
    known = {entry.lower(): entry for entry in ENTRIES}
    name = ALIASES.get(name.lower(), name.lower())
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {known[near[0]]}? " if near else ""
        raise InputError(f"table '{name}' is unknown: {hint}known are {', '.join(ENTRIES)}, or all")
    if scale not in SCALES:
        raise InputError(f"scale '{scale}' is unknown: use one of {', '.join(SCALES)}")
    entry = known[name]
    if entry not in names(scale):
        raise InputError(f"table {entry} has no miniature ({PAPER_ONLY[entry]}): add --scale paper")
    return ENTRIES[entry](scale)


def names(scale: str) -> list[str]:
    """The entries that exist at a scale."""
    return [name for name in ENTRIES if scale == "paper" or name not in PAPER_ONLY]

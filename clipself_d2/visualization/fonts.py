"""Fonts that have the letters of the words that are drawn."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterable

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

logger = logging.getLogger(__name__)

_DEFAULT = "sans-serif"


def font_families(texts: Iterable[str]) -> list[str]:
    """Choose installed fonts that together have all letters; Matplotlib takes each letter from the first that has it.

    Args:
        texts: what is to be drawn.

    Returns:
        Matplotlib's families, the default first. Letters that no font has are warned of once.
    """
    letters = {letter for text in texts for letter in text if not letter.isspace()}
    return list(_families(frozenset(map(ord, letters)) - _letters(findfont(FontProperties(family=[_DEFAULT])))))


@functools.lru_cache(maxsize=64)
def _families(missing: frozenset[int]) -> tuple[str, ...]:
    families = [_DEFAULT]
    # Matplotlib's "Last Resort" has a box in place of every letter.
    fonts = [font for font in fontManager.ttflist if not font.name.startswith("Last Resort")]
    for font in sorted(fonts, key=lambda font: (font.style != "normal", font.weight != 400, font.name)):
        if not missing:
            break
        if font.name not in families and (found := missing & _letters(font.fname)):
            families.append(font.name)
            missing -= found
    if missing:
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # Matplotlib's, letter by letter
        logger.warning(
            "no installed font has the letters %s, which are drawn as boxes: install a font of their script",
            " ".join(sorted(map(chr, missing))[:20]),
        )
    return tuple(families)


@functools.cache
def _letters(path: str) -> frozenset[int]:
    """The code points of a font file; none of one that Matplotlib cannot draw, such as bitmaps of emoji."""
    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()

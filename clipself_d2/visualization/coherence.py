"""Semantic coherence as a figure: ROC curves of several kinds of features, and the cosines behind them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from clipself_d2.evaluation.semantic_coherence import RELATIONS, SimilarityHistogram
from clipself_d2.visualization.drawing import colours

# Bars of a drawn histogram.
_BARS = 64


def draw_coherence(
    histograms: Mapping[str, Mapping[str, SimilarityHistogram]], dots_per_inch: int = 100
) -> Image.Image:
    """Draws what a `SemanticCoherenceEvaluator` counted.

    Args:
        histograms: for every kind of features the counts of each relation; those that lack pairs of either kind are
            left blank.
        dots_per_inch: a column, one relation, is 4 inches wide.

    Returns:
        A picture with a column for each relation: on top the ROC curves of all kinds with their areas; below, a row for
        each kind, how the cosines of pairs that belong together and of others are distributed.
    """
    drawn = {k: {name: h for name, h in of_kind.items() if h.has_both} for k, of_kind in histograms.items()}
    relations = [name for name in RELATIONS if any(name in of_kind for of_kind in drawn.values())]
    rows = len(histograms) + 1
    figure = Figure(figsize=(4 * len(relations), 4 + 1.6 * len(histograms)), dpi=dots_per_inch, layout="constrained")
    axes = figure.subplots(rows, len(relations), squeeze=False, height_ratios=[4, *[1.6] * len(histograms)])
    palette = [tuple(level / 255 for level in colour) for colour in colours(max(2, len(histograms)))]
    for column, relation in zip(axes.T, relations, strict=True):
        curves, *panels = column
        curves.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        for (kind, of_kind), panel, colour in zip(drawn.items(), panels, palette, strict=False):
            panel.set_yticks([])
            panel.set_title(kind, fontsize=8, loc="left")
            if (histogram := of_kind.get(relation)) is None:
                continue
            curves.plot(*histogram.roc(), color=colour, linewidth=1.5, label=f"{kind}: {100 * histogram.auc():.1f}")
            low, high, apart, together = _bars(histogram)
            edges = np.linspace(low, high, _BARS + 1)
            panel.stairs(apart, edges, fill=True, color="0.7", label="apart")
            panel.stairs(together, edges, color=colour, linewidth=1.5, label="together")
            panel.set_xlim(low, high)
            panel.legend(fontsize=7, frameon=False)
        curves.set(title=RELATIONS[relation], xlabel="false positives", ylabel="true positives", aspect="equal")
        curves.legend(fontsize=7, frameon=False, loc="lower right", title="area, %", title_fontsize=7)
        column[-1].set_xlabel("cosine")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _bars(histogram: SimilarityHistogram) -> tuple[float, float, np.ndarray, np.ndarray]:
    """The range of the cosines that occur, and what part of the pairs apart, and together, is in each bar of it."""
    counts = histogram.counts.numpy()
    used = np.flatnonzero(counts.any(axis=0))
    first, last = used[0], used[-1] + 1
    width = -(-(last - first) // _BARS)
    padded = np.zeros((2, width * _BARS), dtype=np.int64)
    padded[:, : last - first] = counts[:, first:last]
    parts = padded.reshape(2, _BARS, width).sum(axis=2) / counts.sum(axis=1, keepdims=True)
    low, high = (2 * place / histogram.BINS - 1 for place in (first, first + width * _BARS))
    return float(low), float(high), parts[0], parts[1]

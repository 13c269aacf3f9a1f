"""Semantic coherence as a figure: ROC curves of several kinds of features, and the cosines behind them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from clipself_d2.evaluation.semantic_coherence import RELATIONS, SimilarityHistogram
from clipself_d2.visualization.colors import distinct_colors, hex_color
from clipself_d2.visualization.figures import figure_to_image


def draw_coherence(histograms: Mapping[str, Mapping[str, SimilarityHistogram]]) -> Image.Image:
    """Draw the counts of a `SemanticCoherenceEvaluator`.

    Args:
        histograms: kind of features -> relation -> counts. Counts without pairs of both kinds are left blank.

    Returns:
        An image with a column per relation: on top the ROC curves of all kinds with their areas; below, a row per kind
        with the distribution of the cosines of pairs that belong together and of other pairs.
    """
    drawn = {k: {name: h for name, h in of_kind.items() if h.has_both} for k, of_kind in histograms.items()}
    relations = [name for name in RELATIONS if any(name in of_kind for of_kind in drawn.values())]
    rows = len(histograms) + 1
    figure = Figure(figsize=(4 * len(relations), 4 + 1.6 * len(histograms)), layout="constrained")
    axes = figure.subplots(rows, len(relations), squeeze=False, height_ratios=[4, *[1.6] * len(histograms)])
    palette = [hex_color(color) for color in distinct_colors(len(histograms))]
    for column, relation in zip(axes.T, relations, strict=True):
        curves, *panels = column
        curves.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        for (kind, of_kind), panel, color in zip(drawn.items(), panels, palette, strict=True):
            panel.set_yticks([])
            panel.set_title(kind, fontsize=8, loc="left")
            if (histogram := of_kind.get(relation)) is None:
                continue
            curves.plot(*histogram.roc(), color=color, linewidth=1.5, label=f"{kind}: {100 * histogram.auc():.1f}")
            _draw_distribution(panel, histogram, color)
            panel.legend(fontsize=7, frameon=False)
        curves.set(title=RELATIONS[relation], xlabel="false positives", ylabel="true positives", aspect="equal")
        curves.legend(fontsize=7, frameon=False, loc="lower right", title="area, %", title_fontsize=7)
        column[-1].set_xlabel("cosine")
    return figure_to_image(figure)


def _draw_distribution(panel: Axes, histogram: SimilarityHistogram, color: str) -> None:
    """Draw what fraction of the pairs of either kind is in each of 64 bars over the cosines that occur."""
    counts = histogram.counts.numpy()
    cosines = (2 * np.arange(histogram.BINS) + 1) / histogram.BINS - 1
    used = cosines[counts.any(axis=0)]
    draw = partial(panel.hist, cosines, bins=64, range=(used[0], used[-1]))
    draw(weights=counts[0] / counts[0].sum(), color="0.7", label="apart")
    draw(weights=counts[1] / counts[1].sum(), color=color, label="together", histtype="step")

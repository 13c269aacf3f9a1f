"""Pictures: K-Means maps of dense features, overlays and heatmaps, and a one-file HTML report."""

from clipself_d2.visualization.drawing import (
    draw_boxes,
    draw_heatmap,
    draw_labels,
    draw_masks,
    grid,
    similarity,
    to_pil,
    upscale,
)
from clipself_d2.visualization.kmeans import compare_kmeans, kmeans_map, match_labels
from clipself_d2.visualization.report import (
    Code,
    Curve,
    Figure,
    Mark,
    Picture,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
    write_report,
)

__all__ = [
    "Code",
    "Curve",
    "Figure",
    "Mark",
    "Picture",
    "Section",
    "Table",
    "Text",
    "Tile",
    "Tiles",
    "compare_kmeans",
    "draw_boxes",
    "draw_heatmap",
    "draw_labels",
    "draw_masks",
    "grid",
    "kmeans_map",
    "match_labels",
    "similarity",
    "to_pil",
    "upscale",
    "write_report",
]

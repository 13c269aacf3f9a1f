"""Pictures: K-Means maps of dense features, overlays, heatmaps and detections, films, and a one-file HTML report."""

from clipself_d2.visualization.coherence import draw_coherence
from clipself_d2.visualization.detections import draw_detections
from clipself_d2.visualization.drawing import (
    add_legend,
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
from clipself_d2.visualization.media import Medium, find_media, open_medium, save_frames
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
from clipself_d2.visualization.segments import draw_segments
from clipself_d2.visualization.semantic_maps import compare_segmentations

__all__ = [
    "Code",
    "Curve",
    "Figure",
    "Mark",
    "Medium",
    "Picture",
    "Section",
    "Table",
    "Text",
    "Tile",
    "Tiles",
    "add_legend",
    "compare_kmeans",
    "compare_segmentations",
    "draw_boxes",
    "draw_coherence",
    "draw_detections",
    "draw_heatmap",
    "draw_labels",
    "draw_masks",
    "draw_segments",
    "find_media",
    "grid",
    "kmeans_map",
    "match_labels",
    "open_medium",
    "save_frames",
    "similarity",
    "to_pil",
    "upscale",
    "write_report",
]

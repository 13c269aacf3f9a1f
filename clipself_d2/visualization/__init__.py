"""Images of results: predictions over images, K-Means and heat maps, charts, and an HTML report."""

from clipself_d2.visualization.coherence import draw_coherence
from clipself_d2.visualization.colors import draw_heatmap
from clipself_d2.visualization.figures import image_grid, line_chart
from clipself_d2.visualization.kmeans import compare_kmeans, kmeans_map
from clipself_d2.visualization.predictions import draw_boxes, draw_predictions
from clipself_d2.visualization.segmentations import compare_segmentations

__all__ = [
    "compare_kmeans",
    "compare_segmentations",
    "draw_boxes",
    "draw_coherence",
    "draw_heatmap",
    "draw_predictions",
    "image_grid",
    "kmeans_map",
    "line_chart",
]

"""K-Means maps of dense features (CLIPSelf, Fig. 4): do the features of one thing fall together?"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import normalize

from clipself_d2.visualization.drawing import draw_labels, grid, to_pil, upscale


def kmeans_map(dense: Tensor, clusters: int, seed: int = 0) -> Tensor:
    """Cluster the locations of one dense map.

    Args:
        dense: C x h x w features; they are normalised here, so distances are those of cosine similarity.
        clusters: how many clusters; at most h * w are made.
        seed: of K-Means' starting centres. The same input and seed give the same map.

    Returns:
        h x w long, cluster numbers from 0, largest cluster first.
    """
    channels, height, width = dense.shape
    points = normalize(dense.detach().float(), dim=0).reshape(channels, -1).T.cpu().numpy()
    kmeans = KMeans(n_clusters=min(clusters, height * width), n_init=4, random_state=seed)
    labels = kmeans.fit_predict(points)
    by_size = np.argsort(-np.bincount(labels, minlength=kmeans.n_clusters), kind="stable")
    return torch.from_numpy(np.argsort(by_size)[labels]).reshape(height, width)


def match_labels(labels: Tensor, reference: Tensor, clusters: int) -> Tensor:
    """Renumber `labels` so that it agrees with `reference` at as many locations as a renumbering can reach.

    Args:
        labels: h x w long, 0..clusters-1.
        reference: h x w long, 0..clusters-1.
        clusters: how many numbers there are.

    Returns:
        h x w long: `labels` after the permutation of 0..clusters-1 of largest overlap (Hungarian algorithm).
    """
    pairs = labels.flatten() * clusters + reference.flatten()
    overlap = torch.bincount(pairs, minlength=clusters**2).reshape(clusters, clusters)
    _, renumbered = linear_sum_assignment(overlap.numpy(), maximize=True)
    return torch.from_numpy(renumbered)[labels]


def compare_kmeans(
    images: Sequence[Tensor],
    dense_before: Sequence[Tensor],
    dense_after: Sequence[Tensor],
    clusters: int = 8,
    seed: int = 0,
    width: int = 256,
) -> Image.Image:
    """Draw images beside the K-Means maps of two towers; overlapping clusters of a row share their colour.

    Args:
        images: uint8 3 x H x W, one a row.
        dense_before: C x h x w of every image, by the first tower.
        dense_after: C x h x w of every image, by the second tower, of the same h x w.
        clusters: clusters a map.
        seed: of K-Means.
        width: of a column, pixels.

    Returns:
        A picture of three columns: image, before, after.
    """
    rows = []
    for image, before, after in zip(images, dense_before, dense_after, strict=True):
        first = kmeans_map(before, clusters, seed)
        second = match_labels(kmeans_map(after, clusters, seed), first, clusters)
        photograph = upscale(to_pil(image), width)
        rows.append([photograph, draw_labels(first, photograph.size), draw_labels(second, photograph.size)])
    return grid(rows, titles=("image", "before", "after"))

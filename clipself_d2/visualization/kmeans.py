"""K-Means maps of dense features (CLIPSelf, Fig. 4): do the features of one object fall into one cluster?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms.functional import to_pil_image

from clipself_d2.visualization.colors import color_labels
from clipself_d2.visualization.figures import image_grid


def kmeans_map(dense: Tensor, clusters: int, seed: int = 0) -> Tensor:
    """Cluster the locations of one dense map by cosine similarity.

    Args:
        dense: C x h x w features of any length.
        clusters: number of clusters, at most h * w are made.
        seed: of the starting centers. The same input and seed give the same map.

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
    """Renumber `labels` to agree with `reference` at as many locations as possible (Hungarian algorithm).

    Args:
        labels: h x w long, 0..clusters-1.
        reference: h x w long, 0..clusters-1.
        clusters: number of clusters.

    Returns:
        h x w long: `labels` after a permutation of 0..clusters-1.
    """
    pairs = labels.flatten() * clusters + reference.flatten()
    overlap = torch.bincount(pairs, minlength=clusters**2).reshape(clusters, clusters)
    _, renumbered = linear_sum_assignment(overlap.numpy(), maximize=True)
    return torch.from_numpy(renumbered)[labels]


def compare_kmeans(images: Sequence[Tensor], dense: Mapping[str, Sequence[Tensor]], clusters: int = 8) -> Image.Image:
    """Draw images beside the K-Means maps of towers. Matching clusters of a row have one color.

    Args:
        images: uint8 3 x H x W, one per row.
        dense: title of a tower -> C x h x w of every image, of the same h x w by all towers.
        clusters: number of clusters per map.

    Returns:
        An image with a column for the images and one per tower.
    """
    rows = []
    for image, *maps in zip(images, *dense.values(), strict=True):
        first, *others = (kmeans_map(features, clusters) for features in maps)
        matched = [first, *(match_labels(labels, first, clusters) for labels in others)]
        rows.append([to_pil_image(image), *map(color_labels, matched)])
    return image_grid(rows, titles=("image", *dense))

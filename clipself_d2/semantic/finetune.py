"""The part of a tower that CAT-Seg trains: the query and value projections of the attention of each block."""

from __future__ import annotations

from clipself_d2.clip.tower import ImageTower


def train_queries_and_values(tower: ImageTower, dense_mode: str = "no_attn") -> None:
    """Freeze a tower except the weights (not the biases) of its attentions' queries and values.

    Fused projections are split, which changes names in the tower's state dict; see `ImageTower.fuse_projections`.

    Args:
        tower: any ViT.
        dense_mode: the dense mode to train; the last block's queries train only in a mode that reads them.
    """
    tower.set_trainable_blocks(0, dense_mode)
    unread = tower.unread_parts(dense_mode)
    weights = tower.query_value_weights()
    for number, (query, value) in enumerate(weights):
        value.requires_grad_(True)
        query.requires_grad_("q" not in unread or number < len(weights) - 1)

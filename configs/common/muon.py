"""Muon and the schedule of CLIPSelf: the matrices' updates are orthogonalized; vectors and scalars train by AdamW.

The rate is AdamW's in size: an update is scaled to the root mean square of AdamW's (https://arxiv.org/abs/2502.16982).
The paper trains with AdamW, and so do the recipes at its scale.
"""

from detectron2.config import LazyCall as L
from timm.optim import Muon

from clipself_d2.engine.optim import param_groups

from .optim import lr_multiplier

optimizer = L(Muon)(
    params=L(param_groups)(weight_decay=0.1, lr="${optimizer.lr}", lr_factors=None),
    lr=4e-3,
    momentum=0.95,
    nesterov=True,
    adjust_lr_fn="match_rms_adamw",
    fallback_lr_scale=0.25,
    betas=(0.9, 0.999),
)

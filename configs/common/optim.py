"""AdamW, or Muon, and the schedule of CLIPSelf: linear warm-up, then a cosine to 0, per iteration."""

from detectron2.config import LazyCall as L
from timm.optim import Muon
from torch.optim import AdamW

from clipself_d2.engine.optim import param_groups, warmup_cosine

optimizer = L(AdamW)(
    params=L(param_groups)(weight_decay=0.1, lr="${optimizer.lr}", lr_factors=None),
    lr=1e-5,
    betas=(0.9, 0.999),
    eps=1e-8,
    fused=True,
)

# Orthogonalizes the updates of matrices; vectors and scalars train by AdamW. An update has the size of AdamW's
# (https://arxiv.org/abs/2502.16982). The miniature imports it as its `optimizer`.
muon = L(Muon)(
    params=L(param_groups)(weight_decay=0.1, lr="${optimizer.lr}", lr_factors=None),
    lr=4e-3,
    momentum=0.95,
    nesterov=True,
    adjust_lr_fn="match_rms_adamw",
    fallback_lr_scale=0.25,
    betas=(0.9, 0.999),
)

lr_multiplier = L(warmup_cosine)(max_iter="${train.max_iter}", warmup_iters=1000)

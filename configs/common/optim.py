"""AdamW and the schedule of CLIPSelf: linear warm-up, then a cosine to 0, per iteration."""

from detectron2.config import LazyCall as L
from torch.optim import AdamW

from clipself_d2.engine.optim import param_groups, warmup_cosine

optimizer = L(AdamW)(
    params=L(param_groups)(weight_decay=0.1, lr="${optimizer.lr}", lr_factors=None),
    lr=1e-5,
    betas=(0.9, 0.999),
    eps=1e-8,
    fused=True,
)

lr_multiplier = L(warmup_cosine)(max_iter="${train.max_iter}", warmup_iters=1000)

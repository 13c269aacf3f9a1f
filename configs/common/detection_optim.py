"""How F-ViT trains: AdamW that decays everything, a short linear warm-up, then a constant rate or steps."""

from detectron2.config import LazyCall as L
from torch.optim import AdamW

from clipself_d2.engine.optim import param_groups, warmup_multistep

from .train import train

train.clip_grad_norm = 1.0

optimizer = L(AdamW)(
    params=L(param_groups)(weight_decay=0.1, decay_vectors=True, lr="${optimizer.lr}", lr_factors=None),
    lr=1e-4,
    betas=(0.9, 0.999),
    eps=1e-8,
    fused=True,
)

lr_multiplier = L(warmup_multistep)(
    max_iter="${train.max_iter}", warmup_iters=250, milestones=[], warmup_factor=0.001, gamma=0.1
)

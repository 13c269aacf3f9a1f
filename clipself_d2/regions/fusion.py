"""Two opinions of a region, a head's and CLIP's, fused into one: the geometric means of the published detectors."""

from __future__ import annotations

import torch
from torch import Tensor

from clipself_d2.errors import InputError

VARIANTS = ("fvit", "fvlm", "odise", "fcclip")
"""The published ways to fuse; ODISE and FC-CLIP share one arithmetic."""


def fuse_scores(
    detector_logprobs: Tensor, clip_logprobs: Tensor, is_base: Tensor, alpha: float, beta: float, variant: str
) -> Tensor:
    """Fuses the probabilities of a head with CLIP's: ``head^(1 - w) * clip^w``, in log space and fp32.

    The weight ``w`` of CLIP is alpha for classes that the head was trained on, and beta for the others. What differs is
    the last column, the background of a detector or the void of a mask generator:

    - ``fvit`` (the released F-ViT): the background counts as a class that was seen. Nothing is renormalised.
    - ``fvlm``: the background keeps the head's probability, then the row is renormalised.
    - ``odise`` and ``fcclip``: the K classes are renormalised in both opinions, fused, renormalised again and
      multiplied by 1 - void. The void is the head's.

    Classes that one of the two holds for impossible, with a weight that is not 0, become 0. Where this befalls all
    classes of a row, the row has nothing to renormalise and they stay 0.

    Args:
        detector_logprobs: R x (K + 1) log probabilities of the head, background or void last.
        clip_logprobs: R x (K + 1) log probabilities of CLIP, or R x K where there is no background in its vocabulary
            ("fvit" needs one, the others ignore it).
        is_base: K bool, whether the head was trained on a class.
        alpha: CLIP's weight for the base classes, 0..1.
        beta: CLIP's weight for the others, 0..1.
        variant: one of `VARIANTS`.

    Returns:
        R x (K + 1) probabilities, fp32.

    Raises:
        InputError: if a weight is out of range, the variant is unknown or the shapes do not fit.
    """
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} is {value}: the weight of CLIP's opinion must be from 0 to 1")
    if variant not in VARIANTS:
        raise InputError(f"unknown way to fuse scores {variant!r}: give one of {', '.join(VARIANTS)}")
    num_classes = detector_logprobs.shape[-1] - 1
    widths = {num_classes + 1} if variant == "fvit" else {num_classes, num_classes + 1}
    if (
        is_base.shape != (num_classes,)
        or clip_logprobs.shape[:-1] != detector_logprobs.shape[:-1]
        or clip_logprobs.shape[-1] not in widths
    ):
        raise InputError(
            f"scores to fuse do not fit: detector {tuple(detector_logprobs.shape)}, CLIP "
            f"{tuple(clip_logprobs.shape)}, is_base "
            f"{tuple(is_base.shape)}: give R x (K + 1), the same{' or R x K' if variant != 'fvit' else ''}, and K"
        )

    with torch.autocast(detector_logprobs.device.type, enabled=False):
        head, clip = detector_logprobs.float(), clip_logprobs.float()
        weight = torch.full((num_classes,), float(beta), device=head.device).masked_fill(is_base.to(head.device), alpha)
        if variant == "fvit":
            return _geometric_mean(head, clip, torch.cat([weight, weight.new_full((1,), alpha)])).exp()
        classes, background = head[..., :-1], head[..., -1:]
        clip = clip[..., :num_classes]
        if variant == "fvlm":
            return _renormalise(torch.cat([_geometric_mean(classes, clip, weight), background], dim=-1)).exp()
        fused = _renormalise(_geometric_mean(_renormalise(classes), _renormalise(clip), weight))
        return torch.cat([fused.exp() * -background.expm1(), background.exp()], dim=-1)


def _geometric_mean(head: Tensor, clip: Tensor, weight: Tensor) -> Tensor:
    """Logarithm of head^(1 - weight) * clip^weight; a weight of 0 silences even an impossible (-inf)."""
    return torch.where(weight < 1, (1 - weight) * head, 0) + torch.where(weight > 0, weight * clip, 0)


def _renormalise(logs: Tensor) -> Tensor:
    """Makes the probabilities of a row sum to 1; a row of zeros stays as it is."""
    total = logs.logsumexp(dim=-1, keepdim=True)
    return logs - total.masked_fill(total == -torch.inf, 0)

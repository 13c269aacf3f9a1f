"""Fusing a region's detector scores with its CLIP scores: the geometric means of the published detectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clipself_d2.errors import InputError


def fuse_scores(
    detector_logprobs: Tensor, clip_logprobs: Tensor, is_base: Tensor, alpha: float, beta: float, variant: str
) -> Tensor:
    """Fuse a detector's probabilities with CLIP's: ``detector^(1 - w) * clip^w``, in log space and fp32.

    CLIP's weight ``w`` is alpha for classes that the detector was trained on, and beta for the others. The variants
    differ in the last column, the background of a detector or the void of a mask generator:

    - ``fvit`` (the released F-ViT): the background counts as a base class. Nothing is renormalized.
    - ``fvlm``: the background keeps the detector's probability, then the row is renormalized.
    - ``odise`` and ``fcclip``: the K classes are renormalized in both scores, fused, renormalized again and multiplied
      by 1 - void. The void is the mask generator's.

    A class that either score calls impossible, with a weight other than 0, becomes 0. If this holds for all classes of
    a row, they stay 0.

    Args:
        detector_logprobs: R x (K + 1) log probabilities, background or void last.
        clip_logprobs: R x (K + 1) log probabilities of CLIP, or R x K if its vocabulary has no background ("fvit" needs
            one, the others ignore it).
        is_base: K bool, whether the detector was trained on a class.
        alpha: CLIP's weight for the base classes, 0..1.
        beta: CLIP's weight for the others, 0..1.
        variant: one of `VARIANTS`.

    Returns:
        R x (K + 1) probabilities, fp32.

    Raises:
        InputError: a weight out of range, an unknown variant, or shapes that do not fit.
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
        detector, clip = detector_logprobs.float(), clip_logprobs.float()
        weight = torch.full((num_classes + 1,), float(beta), device=detector.device)
        weight[:-1].masked_fill_(is_base.to(detector.device), alpha)
        weight[-1] = alpha
        return VARIANTS[variant](detector, clip, weight)


def _fvit(detector: Tensor, clip: Tensor, weight: Tensor) -> Tensor:
    return _geometric_mean(detector, clip, weight).exp()


def _fvlm(detector: Tensor, clip: Tensor, weight: Tensor) -> Tensor:
    classes, background = detector[..., :-1], detector[..., -1:]
    fused = _geometric_mean(classes, clip[..., : classes.shape[-1]], weight[:-1])
    return _renormalize(torch.cat([fused, background], dim=-1)).exp()


def _odise(detector: Tensor, clip: Tensor, weight: Tensor) -> Tensor:
    classes, void = detector[..., :-1], detector[..., -1:]
    clip = _renormalize(clip[..., : classes.shape[-1]])
    fused = _renormalize(_geometric_mean(_renormalize(classes), clip, weight[:-1]))
    return torch.cat([fused.exp() * -void.expm1(), void.exp()], dim=-1)


VARIANTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "fvit": _fvit,
    "fvlm": _fvlm,
    "odise": _odise,
    "fcclip": _odise,
}
"""The published variants: from log probabilities of detector and CLIP, and CLIP's K + 1 weights, to probabilities."""


def _geometric_mean(detector: Tensor, clip: Tensor, weight: Tensor) -> Tensor:
    """Logarithm of detector^(1 - weight) * clip^weight; a weight of 0 silences even an impossible class (-inf)."""
    return torch.where(weight < 1, (1 - weight) * detector, 0) + torch.where(weight > 0, weight * clip, 0)


def _renormalize(logs: Tensor) -> Tensor:
    """Make the probabilities of a row sum to 1; a row of zeros stays as it is."""
    total = logs.logsumexp(dim=-1, keepdim=True)
    return logs - total.masked_fill(total == -torch.inf, 0)

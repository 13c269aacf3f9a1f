"""F-ViT's inference against the bare forward of its tower."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from omegaconf import DictConfig

from clipself_d2.benchmark.arguments import IMAGE, add_common, autocast, check_at_least, random_config
from clipself_d2.benchmark.measure import Parts, count_flops, medians, peak_flops, peak_memory
from clipself_d2.engine.config import build
from clipself_d2.engine.trainer import PRECISIONS
from clipself_d2.vocabulary import Vocabulary

CONFIGS = {
    "EVA02-B-16": "detection/fvit_eva02_b16_ovcoco.py",
    "EVA02-L-14-336": "detection/fvit_eva02_l14_336_ovcoco.py",
    "ViT-B-16-quickgelu": "detection/fvit_openai_b16_ovcoco.py",
    "ViT-L-14-336-quickgelu": "detection/fvit_openai_l14_336_ovcoco.py",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line may say."""
    add_common(parser, f"one of {', '.join(CONFIGS)}", rounds=7, precision="of both")
    add = parser.add_argument
    add("--size", type=int, metavar="PIXELS", help="side of the input (the config's)")
    add("--classes", type=int, default=65, metavar="K", help="of the vocabulary (%(default)s)")
    add("opts", nargs="*", metavar="key=value", help="overrides: model.rpn.post_nms_topk=[1000,300]")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, with random weights.

    Args:
        args: what `add_arguments` declares, and `device`.

    Returns:
        Seconds of a batch: `ours` (photographs to detections), `reference` (`tower.features` for the dense map alone,
        on a batch of the same shape), `ratio`; `peak_fraction`, our operations a second over `peak_flops`;
        `peak_memory_bytes` and `flops` of both; `parts`, the seconds of ours in the tower, the pyramid and so on;
        `settings`.

    Raises:
        InputError: for an unknown model or override, or a number out of its range.
    """
    cfg = load_detector_config(args)
    torch.manual_seed(0)
    model: Any = build(cfg, "model").to(args.device).eval()
    inputs = [{"image": torch.randint(0, 256, (3, *IMAGE), dtype=torch.uint8)} for _ in range(args.batch)]
    pixels = torch.randn(args.batch, 3, model.size, model.size, device=args.device)
    precision = autocast(args)

    def ours() -> Any:
        with torch.inference_mode(), precision:
            return model(inputs)

    def reference() -> Any:
        with torch.inference_mode(), precision:
            return model.backbone.tower.features(pixels)

    calls = {"ours": ours, "reference": reference}
    seconds = medians(calls, args.device, args.rounds)
    flops = {name: count_flops(call) for name, call in calls.items()}
    attainable = peak_flops(args.device, PRECISIONS[args.precision])
    said = ("model", "batch", "classes", "precision", "rounds", "opts")
    return {
        **seconds,
        "ratio": seconds["ours"] / seconds["reference"],
        "peak_fraction": flops["ours"] / seconds["ours"] / attainable,
        "peak_memory_bytes": {name: peak_memory(call, args.device) for name, call in calls.items()},
        "flops": flops,
        "parts": Parts(_parts(model), args.device)(ours, max(1, args.rounds // 2)),
        "settings": {"size": model.size, "image": list(IMAGE), **{name: getattr(args, name) for name in said}},
    }


def load_detector_config(args: argparse.Namespace) -> DictConfig:
    """The config of an F-ViT with random weights and a vocabulary of random embeddings."""
    check_at_least(args, batch=1, classes=1, rounds=1)
    cfg = random_config(args, CONFIGS, "model.size")
    cfg.model.vocabulary = {"_target_": random_vocabulary, "classes": args.classes, "embed_dim": cfg.shape.embed_dim}
    return cfg


def random_vocabulary(classes: int, embed_dim: int) -> Vocabulary:
    """Classes and a background with random embeddings."""
    rows = torch.randn(classes + 1, embed_dim)
    return Vocabulary([f"class {i}" for i in range(classes)], rows[:-1], background=rows[-1])


def _parts(model: Any) -> dict[str, tuple[Any, str]]:
    """Methods whose time is told."""
    return {
        "tower": (model.backbone.tower, "features"),
        "pyramid": (model.backbone.pyramid, "forward"),
        "RPN": (model.rpn, "forward"),
        "NMS of proposals": (model.rpn, "predict_proposals"),
        "RoIAlign": (model.roi_heads, "box_pooler"),
        "box head": (model.roi_heads.box_head, "forward"),
        "scores and NMS": (model.roi_heads, "detect"),
    }

"""Rows that are the same at both scales but for their runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reproduction.numbers import AP50_OF_DETECTOR, COHERENCE, KINDS_TOP1, MIOU, SEMANTIC, Numbers
from reproduction.tables import Row, Run, rows_of

COMPARED = ("original", "CLIPSelf")
"""What `clipself coherence` calls the tower that a run starts from, and the one that it exports."""
CROPS = ("crops.top1",)
# Those of `clip.dense_modes`, whose module would import torch, but for `proxyclip`, which needs a guide.
DENSE_MODES = ("no_attn", "full", "class_residual", "qq", "kk", "sclip", "clearclip", "declip", "naclip", "values")
OBJECTIVES = {
    "CLIPSelf": ((), "no_attn"),
    "R-SC": (("model.correlation=${correlations.spatial}",), "no_attn"),
    "DeCLIP": (("model.correlation=${correlations.declip}",), "declip"),
    "DenseRC": (("model.correlation=${correlations.denserc}",), "values"),
}
"""What each objective adds to CLIPSelf, and the dense mode that it trains, in which its tower is read from then on."""
PREDICTED, CLIP_ONLY = ("model.alpha=0", "model.beta=0"), ("model.alpha=1", "model.beta=1")
TRUE_MASKS = ("model.generator=${ground_truth}", *CLIP_ONLY)
FUSED_ABOVE = {"fused, original": "predicted only"}
"""Table 6 fuses the original tower's scores with the generator's because that gains over the generator's alone."""


def towers(run: Run, **distilled: Run) -> dict[str, Run]:
    """A run on its config's own tower and on those that other runs export."""
    return {"original": run} | {kind: run.on(tower) for kind, tower in distilled.items()}


def scores(found: Run, true: Run, distilled: Run) -> dict[str, Run]:
    """Table 6: the scores of the mask generator, of CLIP, and both, then CLIP's on the true masks, by two towers."""
    runs = {"predicted only": found.having(*PREDICTED)}  # CLIP has no say
    for name, run in {"CLIP only": found.having(*CLIP_ONLY), "fused": found, "true masks": true}.items():
        runs |= {f"{name}, {tower}": each for tower, each in towers(run, CLIPSelf=distilled).items()}
    return runs


def curves(runs: Mapping[str, Mapping[int, Run]]) -> Iterable[Row]:
    """Figure 3: a row for each size of the input on each curve."""
    for name, of_sizes in runs.items():
        for size, run in of_sizes.items():
            yield Row(f"{name}, {size}", run, series=name, x=size)


def coherence(name: str, probe: Run, segmented: Mapping[str, Run]) -> Iterable[Row]:
    """What the dense maps of two towers tell untrained: coherence of patches, then segmentation by text alone."""
    for mode, title in (("no_attn", "last block without attention"), ("full", "ordinary last block")):
        for tower in COMPARED:
            areas = (f"auc.{tower}, {mode}.{relation}" for relation in COHERENCE.values())
            yield Row(f"{name}coherence, {title}, {tower}", probe, metrics=(*areas, *("",) * len(SEMANTIC)))
    ways = {
        "MaskCLIP": (),
        "MaskCLIP, map twice as fine": ("model.finer=2",),
        "PACL's score of the image too": ("model.scoring=patch_weighted",),
        "ordinary last block": ("model.dense_mode=full",),
    }
    for way, overrides in ways.items():
        for tower, run in segmented.items():
            metrics = (*("",) * len(COHERENCE), *SEMANTIC.values())
            yield Row(f"{name}segmentation, {way}, {tower}", run.having(*overrides), metrics=metrics)


def dense_modes(name: str, run: Run, segmented: Run, guide: str) -> Iterable[Row]:
    """What every dense mode gives before and after CLIPSelf: regions' classes, then segmentation by text alone.

    Args:
        name: what the rows' labels begin with.
        run: of CLIPSelf.
        segmented: of segmentation by text alone, on the tower that `run` starts from.
        guide: `model.tower.guide` of `proxyclip`.
    """
    readings = {mode: _reading(mode) for mode in DENSE_MODES}
    readings["proxyclip"] = (*_reading("proxyclip"), f"model.tower.guide={guide}")
    for mode, overrides in readings.items():
        classified = {"original": run.before(*overrides), "CLIPSelf": run.after(*overrides)}
        for tower, each in classified.items():
            metrics = (*KINDS_TOP1.values(), *("",) * len(SEMANTIC))
            yield Row(f"{name}regions, {mode}, {tower}", each, metrics=metrics)
        for tower, each in towers(segmented.having(*overrides), CLIPSelf=run).items():
            metrics = (*("",) * len(KINDS_TOP1), *SEMANTIC.values())
            yield Row(f"{name}segmentation, {mode}, {tower}", each, metrics=metrics)


def successors(name: str, run: Run, detector: Run, segmented: Run) -> Iterable[Row]:
    """What each objective gives at an equal number of steps: regions' classes, F-ViT, and segmentation by text alone.

    Args:
        name: what the rows' labels begin with.
        run: of CLIPSelf.
        detector: of F-ViT, on the tower that `run` starts from.
        segmented: of segmentation by text alone, on the same tower.
    """
    regions, detection, segmentation = {"original": run.before()}, {"original": detector}, {"original": segmented}
    for objective, (overrides, mode) in OBJECTIVES.items():
        distilled = run.having(*overrides, *_reading(mode))
        regions[objective] = distilled
        detection[objective] = detector.having(*_reading(mode, "model.backbone")).on(distilled)
        segmentation[objective] = segmented.having(*_reading(mode)).on(distilled)
    columns = KINDS_TOP1 | AP50_OF_DETECTOR | MIOU
    unknown: Numbers = {}
    yield from rows_of(regions, unknown, columns, name=f"{name}regions, ", metrics=tuple(KINDS_TOP1.values()))
    yield from rows_of(detection, unknown, columns, name=f"{name}F-ViT, ", metrics=tuple(AP50_OF_DETECTOR.values()))
    yield from rows_of(segmentation, unknown, columns, name=f"{name}segmentation, ", metrics=tuple(MIOU.values()))


def _reading(mode: str, part: str = "model") -> tuple[str, ...]:
    """What a config that reads the dense map in a mode overrides; its own mode is `no_attn`."""
    return () if mode == "no_attn" else (f"{part}.dense_mode={mode}",)


def embeddings(run: Run, value: tuple[float | None, ...]) -> tuple[Row, ...]:
    """Table A1: what a region of the tower that a run starts from is embedded by.

    Args:
        run: of CLIPSelf.
        value: the paper's numbers of the second row.
    """
    dense = run.before()
    return (
        Row("image crop (the teacher)", dense, metrics=("crops.top1", "crops.top5", "", "", "", "")),
        Row("dense map, last block without attention", dense, value),
        Row("dense map, ordinary last block", run.before("model.dense_mode=full")),
        Row("class token that attends to the region alone", run.before("model.dense_mode=masked")),
    )


def designs(run: Run, last: int, levels: int) -> dict[str, Run]:
    """Table A3: designs of a detector.

    Args:
        run: of the detector.
        last: the tower's last block.
        levels: that the pyramid reads.
    """
    trainable = ("model.backbone.trainable=true",)
    return {
        "simple pyramid, last block": run.having(
            f"model.backbone.blocks=[{last}]", "model.backbone.pyramid=${simple_pyramid}"
        ),
        "FPN, last block": run.having(f"model.backbone.blocks=[{','.join([str(last)] * levels)}]"),
        "FPN, intermediate blocks": run,
        "the same, tower trains, lr x 0.01": run.having(*trainable, _slow_tower(0.01)),
        "the same, tower trains, lr x 0.1": run.having(*trainable, _slow_tower(0.1)),
    }


def _slow_tower(factor: float) -> str:
    return f"optimizer.params.lr_factors={{backbone.trained_tower: {factor}}}"

"""A trained detector or segmenter that looks for a user's words."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import LazyCall
from detectron2.data import MetadataCatalog
from matplotlib.figure import Figure
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from clipself_d2.command_line import weights as parse_weights
from clipself_d2.data.catalog import check_registered
from clipself_d2.data.vocabulary import base_classes, dataset_stuff
from clipself_d2.engine.config import build, train_settings
from clipself_d2.engine.hub import read_run
from clipself_d2.engine.inference import autocast, load_trained, resolve_device
from clipself_d2.errors import InputError
from clipself_d2.evaluation.json_results import semantic_segments
from clipself_d2.visualization.figures import figure_to_image
from clipself_d2.visualization.predictions import prediction_figure
from clipself_d2.vocabulary import TextClassifier, Vocabulary, seen_classes

Words = Sequence[Sequence[str]]


class Predictor:
    """A trained model that looks for a user's words.

    Args:
        cfg: of a detector, a panoptic or a semantic segmenter; its classes are replaced.
        words: for each class its synonyms, the first of which is its name.
        novel: see `set_classes`.
        stuff: see `set_classes`.
        weights: see `load_trained`; "null" for None.
        threshold: lowest score of a box that is drawn (default 0.3), of a segment that is kept (default 0), and of a
            pixel that has a class in semantic segmentation (default 0).

    Raises:
        InputError: see `set_classes`; or no weights.
    """

    def __init__(
        self,
        cfg: DictConfig,
        words: Words,
        *,
        novel: Sequence[str] | None = None,
        stuff: Sequence[str] | None = None,
        weights: str = "",
        threshold: float | None = None,
    ) -> None:
        cfg.train.device = resolve_device(cfg.train.device)
        self.cfg = copy.deepcopy(cfg)
        self.words = words
        self.is_base = set_classes(cfg, words, novel, stuff)
        self.threshold = threshold
        self.precision = autocast(train_settings(cfg))
        self.model: Any = load_trained(cfg, parse_weights(weights))
        # Of a semantic segmenter: the scores of all words in all pixels fill the memory.
        self.model.labels_only = True  # type: ignore[assignment]
        self._classes: dict[str, Any] = {}  # arguments of a call, if they are no longer the model's own

    @classmethod
    def from_pretrained(cls, source: str, words: Words, **settings: Any) -> Predictor:
        """A detector or segmenter that `clipself push` wrote; nothing in its files is executed.

        Args:
            source: ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER``.
            words: see the class.
            **settings: the other arguments of the class.
        """
        cfg, weights = read_run(source)
        return cls(cfg, words, weights=weights, **settings)

    @property
    def names(self) -> list[str]:
        """The first synonym of each class."""
        return [synonyms[0] for synonyms in self.words]

    @functools.cached_property
    def text(self) -> TextClassifier:
        """What embeds words for the model."""
        text: TextClassifier = build(self.cfg, "model.vocabulary.text")
        return text

    def set_words(self, words: Words) -> None:
        """Look for other words from now on; which are novel and which are stuff is the data set's to say."""
        if words == self.words:
            return
        cfg = copy.deepcopy(self.cfg)
        is_base = set_classes(cfg, words)
        novel = [synonyms[0] for synonyms, known in zip(words, is_base, strict=True) if not known]
        background = "background" if self.model.vocabulary.background is not None else None
        vocabulary = Vocabulary.from_classes(words, self.text, novel=novel, background=background)
        isthing = {"isthing": list(cfg.model.isthing)} if "isthing" in cfg.model else {}
        self.words, self.is_base, self._classes = words, is_base, {"vocabulary": vocabulary, **isthing}

    @torch.inference_mode()
    def __call__(self, image: Tensor, file_name: str = "") -> dict[str, Any]:
        """Return Detectron2's output for an image, on the CPU.

        Args:
            image: 3 x H x W uint8 RGB.
            file_name: of the image, by which saved masks are found.

        Returns:
            ``instances``; or ``panoptic_seg``, by a semantic segmenter with one segment per class.
        """
        height, width = image.shape[1:]
        with self.precision:
            sample = {"image": image, "height": height, "width": width, "file_name": file_name}
            [output] = self.model([sample], **self._classes)
        threshold = self.threshold or 0.0
        if "sem_seg" in output:  # a model that knows no `labels_only`
            output["label_scores"], output["labels"] = output["sem_seg"].max(dim=0)
        if "labels" in output:
            labels, scores = output["labels"], output["label_scores"]
            output, threshold = semantic_segments(labels, scores, threshold, output.get("background")), 0.0
        if "panoptic_seg" in output:
            ids, segments = output["panoptic_seg"]
            return {"panoptic_seg": (ids.cpu(), [s for s in segments if s["score"] >= threshold])}
        return {"instances": output["instances"].to("cpu")}

    @property
    def drawn_threshold(self) -> float:
        """The lowest score of a box that is drawn."""
        return 0.3 if self.threshold is None else self.threshold

    def figure(self, image: Tensor, output: dict[str, Any]) -> Figure:
        """Draw an output over its image, with boxes and names as vectors."""
        return prediction_figure(image, output, self.names, self.is_base, self.drawn_threshold)

    def draw(self, image: Tensor, output: dict[str, Any]) -> Image.Image:
        """Draw an output over its image, in pixels."""
        return figure_to_image(self.figure(image, output))


def set_classes(
    cfg: DictConfig, words: Words, novel: Sequence[str] | None = None, stuff: Sequence[str] | None = None
) -> list[bool]:
    """Replace the classes of a config's model by a user's words.

    Args:
        cfg: its `model.vocabulary` has the text tower, and names the data set whose classes tell which words are base
            classes and which are stuff (by any synonym; upper and lower case are the same).
        words: for each class its synonyms, the first of which is its name.
        novel: names of the novel classes. None: those that are no base class of the data set.
        stuff: names of the classes that a panoptic segmenter makes one segment of. None: the data set's stuff.

    Returns:
        For each class whether it is a base class.

    Raises:
        InputError: a config of another task, or a name in `stuff` that is no class.
    """
    node = cfg.model.get("vocabulary")
    has_text = isinstance(node, DictConfig) and isinstance(node.get("text"), DictConfig)
    if not has_text or not node.get("dataset") or not cfg.dataloader.get("test"):
        raise InputError(
            "the config has no text tower, data set or test loader (model.vocabulary.text and .dataset, "
            "dataloader.test): use one of configs/detection, configs/panoptic or configs/semantic"
        )
    names = [synonyms[0] for synonyms in words]
    check_registered(node.dataset)
    of_scenes = "stuff_classes" in MetadataCatalog.get(node.dataset).as_dict()
    if novel is None:
        known = seen_classes(base_classes(node.dataset, stuff=of_scenes), words, ignore_case=True)
        novel = [name for name, is_base in zip(names, known, strict=True) if not is_base]
    background = None if of_scenes else "background"
    vocabulary = functools.partial(Vocabulary.from_classes, words, novel=novel, background=background)
    cfg.model.vocabulary = LazyCall(vocabulary)(text=node.text)
    if "test_vocabulary" in cfg.model:
        cfg.model.test_vocabulary = "${model.vocabulary}"
    if "isthing" in cfg.model:
        if stuff is None:
            known = seen_classes(dataset_stuff(node.dataset), words, ignore_case=True)
            stuff = [name for name, is_stuff in zip(names, known, strict=True) if is_stuff]
        elif unknown := [name for name in stuff if name not in names]:
            raise InputError(f"stuff {unknown[0]!r} is not among the words: give the first of its synonyms")
        cfg.model.update(isthing=[name not in stuff for name in names], tasks=["panoptic_seg"])
    elif stuff is not None:
        raise InputError("--stuff is for configs/panoptic: the other models do not tell stuff from things")
    return [name not in novel for name in names]

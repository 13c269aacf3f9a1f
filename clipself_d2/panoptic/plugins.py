"""The plug-ins for ODISE and FC-CLIP with towers of this package; `standalone/clipself_plugin.py` has all the rest."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from detectron2.utils.logger import log_first_n
from torch import Tensor

from clipself_d2.clip import ImageTower, TextTower
from clipself_d2.clip.frozen import FrozenModules
from clipself_d2.errors import InputError
from clipself_d2.panoptic.class_links import same_classes
from clipself_d2.panoptic.mask_embedder import MaskEmbedder
from clipself_d2.panoptic.standalone import clipself_plugin
from clipself_d2.vocabulary import TextClassifier, Vocabulary, label_set
from clipself_d2.vocabulary.synonyms import embed_synonyms

Classes = Sequence[Sequence[str]]


class TowerCLIP(FrozenModules):
    """A CLIP as the plug-ins ask for it: embeddings of masks, and their logits.

    Both towers move with the module; neither is part of the state dict.

    Args:
        tower: a CLIP image tower, frozen.
        text_tower: the text tower of the same CLIP; its logit scale, clamped at 100, is the temperature.
        size: see `MaskEmbedder`.
        templates: see `vocabulary.TextClassifier`; a class scores as its best synonym.
        dense_mode: see `MaskEmbedder`.
        mask_resize: see `MaskEmbedder`.

    Raises:
        InputError: towers of different CLIPs; see `MaskEmbedder` too.
    """

    text_tower: TextTower

    def __init__(
        self,
        tower: ImageTower,
        text_tower: TextTower,
        size: int,
        templates: str | Sequence[str],
        dense_mode: str = "no_attn",
        mask_resize: str = "bilinear",
    ) -> None:
        super().__init__()
        if text_tower.embed_dim != tower.embed_dim:
            raise InputError(
                f"text_tower: its embeddings have length {text_tower.embed_dim}, the image tower's {tower.embed_dim}: "
                "use the towers of one CLIP"
            )
        self.embedder = MaskEmbedder(tower, size, dense_mode, mask_resize)
        self.hold_frozen("text_tower", text_tower)
        self.text = TextClassifier(text_tower, templates, synonyms="max")
        self._vocabularies: dict[tuple[tuple[str, ...], ...], Vocabulary] = {}

    def embed_masks(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """See `clipself_dense.ExportedCLIP.embed_masks`."""
        embedded = self.embedder(list(images), list(masks))
        return torch.stack([features for features, _ in embedded]), torch.stack([valid for _, valid in embedded])

    def logits(self, embeddings: Tensor, classes: Classes) -> Tensor:
        """See `clipself_dense.ExportedCLIP.logits`; names are embedded when they are first asked for."""
        temperature = self.text_tower.logit_scale.exp().clamp(max=100).to(embeddings)
        return self._vocabulary(classes).cosines(embeddings) * temperature

    def _vocabulary(self, classes: Classes) -> Vocabulary:
        """Embed the classes, once. Names may repeat: classes are numbered to tell them apart."""
        key = tuple(tuple(dict.fromkeys(synonyms)) for synonyms in classes)
        if key not in self._vocabularies:
            distinct = [(f"{number} {name}", *others) for number, (name, *others) in enumerate(key)]
            self._vocabularies[key] = Vocabulary(distinct, embed_synonyms(self.text, key))
        return self._vocabularies[key]


class ODISEMaskClassifier(clipself_plugin.ODISEMaskClassifier):
    """ODISE's `clip_head` with a CLIP of this package; see `clipself_plugin.ODISEMaskClassifier`.

    Args:
        tower: see `TowerCLIP`.
        text_tower: see `TowerCLIP`.
        size: see `MaskEmbedder`.
        alpha: see the base class.
        beta: see the base class.
        templates: ODISE's is "photo".
        train_labels: see the base class. None where ODISE cannot be imported: COCO panoptic's classes, matched by
            `same_classes`; those without a partner among the test labels are logged.
        size_divisibility: see the base class.
        dense_mode: see `MaskEmbedder`.
        mask_resize: see `MaskEmbedder`.
    """

    def __init__(
        self,
        tower: ImageTower,
        text_tower: TextTower,
        size: int,
        alpha: float = 0.35,
        beta: float = 0.65,
        *,
        templates: str | Sequence[str] = "photo",
        train_labels: Classes | None = None,
        size_divisibility: int = 64,
        dense_mode: str = "no_attn",
        mask_resize: str = "bilinear",
    ) -> None:
        clip = TowerCLIP(tower, text_tower, size, templates, dense_mode, mask_resize)
        self._by_partners = False
        self._seen: dict[tuple[tuple[str, ...], ...], list[bool]] = {}
        super().__init__(clip, alpha, beta, train_labels, size_divisibility)

    def default_train_labels(self) -> Classes:
        """ODISE's own list, else COCO panoptic's classes."""
        try:
            return super().default_train_labels()
        except ImportError:
            self._by_partners = True
            return label_set("coco_panoptic")

    def seen_classes(self, classes: Classes) -> list[bool]:
        """See the base class and `train_labels`; asked for every image, partners are looked for once."""
        if not self._by_partners:
            return super().seen_classes(classes)
        key = tuple(map(tuple, classes))
        if key not in self._seen:
            self._seen[key] = self._with_partner(classes)
        return self._seen[key]

    def _with_partner(self, classes: Classes) -> list[bool]:
        same = same_classes(self.train_labels, classes)
        lacking = [
            names[0] for names, found in zip(self.train_labels, same.any(dim=1).tolist(), strict=True) if not found
        ]
        if lacking:
            log_first_n(
                logging.WARNING,
                f"{len(lacking)} of ODISE's {len(same)} trained classes have no partner among the test labels: "
                f"{', '.join(lacking)}",
                name=__name__,
                key="message",
            )
        return same.any(dim=0).tolist()


class FCCLIPMaskClassifier(clipself_plugin.FCCLIPMaskClassifier):
    """FC-CLIP's classifier with a CLIP of this package; see `clipself_plugin.FCCLIPMaskClassifier`.

    Args:
        tower: see `TowerCLIP`.
        text_tower: see `TowerCLIP`.
        size: see `MaskEmbedder`.
        alpha: see the base class.
        beta: see the base class.
        templates: "vild" has 63 of the kind of which FC-CLIP takes 14; they are averaged, as in FC-CLIP.
        dense_mode: see `MaskEmbedder`.
        mask_resize: see `MaskEmbedder`.
    """

    def __init__(
        self,
        tower: ImageTower,
        text_tower: TextTower,
        size: int,
        alpha: float = 0.4,
        beta: float = 0.8,
        *,
        templates: str | Sequence[str] = "vild",
        dense_mode: str = "no_attn",
        mask_resize: str = "bilinear",
    ) -> None:
        super().__init__(TowerCLIP(tower, text_tower, size, templates, dense_mode, mask_resize), alpha, beta)

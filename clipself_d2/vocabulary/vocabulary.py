"""A vocabulary: the classes that a model is asked for, as text embeddings, and which of them it was trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipself_d2.errors import InputError
from clipself_d2.vocabulary.parse import ClassNames, check_vocabulary, refuse_repeated
from clipself_d2.vocabulary.synonyms import max_over_synonyms, synonym_classes
from clipself_d2.vocabulary.text_embeddings import load_text_embeddings

logger = logging.getLogger(__name__)

Embeddings = str | Path | Callable[[ClassNames], Tensor]
"""Where text embeddings come from: a `TextClassifier`, or a file of published ones (`load_text_embeddings`)."""

_EQUAL = 1e-4  # distance of unit vectors; the same prompt in two batches differs by 1e-6


class Vocabulary(nn.Module):
    """K classes with their text embeddings; an argument of a call, or a model's own.

    It moves with the module that holds it and is not part of a state dict.

    Args:
        classes: K names, or lists of synonyms.
        embeddings: K x C, one per class; or one per synonym, class by class, of which a class takes the best score.
        novel: names of the classes that were never trained on, the first of their synonyms.
        background: C, the embedding of what is none of the classes.

    Attributes:
        classes: per class its synonyms, the first of which is its name.
        novel: the names of the novel classes.
        is_base: K bool; false for the novel classes.
        text_embeddings: N x C unit vectors.
        class_ids: N, the class of each embedding.
        background: C unit vector, or None.

    Raises:
        InputError: an empty vocabulary, a repeated class, a name in `novel` that is repeated or not a class, a wrong
            number of embeddings, a background of another length.
    """

    is_base: Tensor
    text_embeddings: Tensor
    class_ids: Tensor
    background: Tensor | None

    def __init__(
        self,
        classes: ClassNames,
        embeddings: Tensor,
        *,
        novel: Sequence[str] = (),
        background: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.classes = check_vocabulary(classes)
        names = self.names
        refuse_repeated([(name,) for name in names], "class")
        _check_novel(novel, self.classes)
        synonyms = sum(map(len, self.classes))
        if embeddings.ndim != 2 or len(embeddings) not in (len(names), synonyms):
            raise InputError(
                f"vocabulary: embeddings are {tuple(embeddings.shape)} for {len(names)} classes of {synonyms} "
                "synonyms: give one per class, or one per synonym"
            )
        if background is not None and background.shape != embeddings.shape[1:]:
            raise InputError(
                f"vocabulary: the background's embedding is {tuple(background.shape)}, the classes' have length "
                f"{embeddings.shape[1]}: use the same text tower"
            )
        numbers = torch.arange(len(names)) if len(embeddings) == len(names) else synonym_classes(classes)
        self.novel = frozenset(novel)
        is_base = torch.tensor([name not in self.novel for name in names], device=embeddings.device)
        self.register_buffer("is_base", is_base, persistent=False)
        self.register_buffer("text_embeddings", F.normalize(embeddings.detach().float(), dim=-1), persistent=False)
        self.register_buffer("class_ids", numbers.to(embeddings.device), persistent=False)
        unit = None if background is None else F.normalize(background.detach().float(), dim=-1)
        self.register_buffer("background", unit, persistent=False)

    @classmethod
    def from_classes(
        cls,
        classes: ClassNames,
        text: Embeddings,
        *,
        novel: Sequence[str] = (),
        background: str | None = "background",
        embed_dim: int | None = None,
    ) -> Vocabulary:
        """Embed class names, or read their published embeddings; on the text tower's device.

        Args:
            classes: names, or lists of synonyms.
            text: a `TextClassifier`; or a file of embeddings, which holds the background last (``.npy``) or by name
                (``.pt``), see `load_text_embeddings`.
            novel: see the class.
            background: the word for what is none of the classes; None for a vocabulary without background.
            embed_dim: length of the image tower's embeddings, against which a file is checked.

        Raises:
            InputError: see the class and `load_text_embeddings`; the background among the classes.
        """
        checked = check_vocabulary(classes)
        words = [*checked, (background,)] if background else checked
        if background and any(background in synonyms for synonyms in checked):
            raise InputError(f"vocabulary: {background!r} is the background's word and cannot be a class too")
        if callable(text):
            embeddings = text(words)
        elif embed_dim is None:
            raise InputError(f"{text}: say embed_dim, the length of the image tower's embeddings")
        else:
            embeddings = load_text_embeddings(text, [synonyms[0] for synonyms in words], embed_dim)
        rows, last = (embeddings[:-1], embeddings[-1]) if background else (embeddings, None)
        vocabulary = cls(checked, rows, novel=novel, background=last)
        if len(vocabulary.text_embeddings) == len(vocabulary):  # classes may share some of their synonyms
            _warn_of_equal(vocabulary.names, vocabulary.text_embeddings)
        return vocabulary

    @property
    def names(self) -> list[str]:
        """The classes' names, the first of their synonyms."""
        return [synonyms[0] for synonyms in self.classes]

    @property
    def embed_dim(self) -> int:
        """C."""
        return self.text_embeddings.shape[1]

    def __len__(self) -> int:
        """Return K, without the background."""
        return len(self.classes)

    def cosines(self, features: Tensor, background: Tensor | None = None) -> Tensor:
        """Cosine of each feature with each class.

        Args:
            features: ... x C unit vectors (a zero vector gives zeros).
            background: C unit vector that replaces the vocabulary's own (a learned one).

        Returns:
            ... x K fp32, or ... x (K + 1) with the background last if there is one.
        """
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            rows = self.text_embeddings.to(features.device)
            cosines = features @ rows.T
            if len(rows) != len(self):
                cosines = max_over_synonyms(cosines, self.class_ids)
            background = self.background if background is None else background
            if background is None:
                return cosines
            return torch.cat([cosines, (features @ background.to(features))[..., None]], dim=-1)

    def log_probabilities(self, features: Tensor, temperature: float | Tensor) -> Tensor:
        """Log-softmax over the classes of the temperature times the `cosines`; what `fuse_scores` takes from CLIP.

        Args:
            features: ... x C unit vectors.
            temperature: factor of the cosines.

        Returns:
            ... x K fp32, or ... x (K + 1) with the background last if there is one.
        """
        return (self.cosines(features) * temperature).log_softmax(dim=-1)

    def check_embed_dim(
        self, embed_dim: int, whose: str = "the image tower's", fix: str = "use the text tower of the same CLIP"
    ) -> None:
        """Raise an InputError if the embeddings do not have the length of what they are to be compared with.

        Args:
            embed_dim: the length that is wanted.
            whose: embeddings have it, for the message.
            fix: what to do, for the message.
        """
        if self.embed_dim != embed_dim:
            raise InputError(f"vocabulary: its embeddings have length {self.embed_dim}, {whose} {embed_dim}: {fix}")

    def only_base(self) -> Vocabulary:
        """The vocabulary of the base classes alone; InputError if there is none."""
        if not self.is_base.any():
            raise InputError("vocabulary: none of its classes is a base class")
        kept = [synonyms for synonyms, base in zip(self.classes, self.is_base.tolist(), strict=True) if base]
        return Vocabulary(kept, self.text_embeddings[self.is_base[self.class_ids]], background=self.background)


def _check_novel(novel: Sequence[str], classes: Sequence[Sequence[str]]) -> None:
    refuse_repeated([(name,) for name in novel], "novel class")
    names = {synonyms[0] for synonyms in classes}
    for name in novel:
        if name not in names:
            others = [synonyms[0] for synonyms in classes if name in synonyms]
            hint = f", only a synonym of {others[0]!r}: give that name" if others else ""
            raise InputError(f"vocabulary: novel class {name!r} is not among the {len(names)} classes{hint}")


def _warn_of_equal(names: Sequence[str], embeddings: Tensor) -> None:
    """Warn of classes whose embeddings are the same, which no model can tell apart."""
    # Neighbors along a fixed direction; comparing all pairs would be quadratic.
    direction = torch.arange(1.0, embeddings.shape[1] + 1, device=embeddings.device).sin()
    order = (embeddings @ direction).argsort()
    near = (embeddings[order[1:]] - embeddings[order[:-1]]).norm(dim=1) < _EQUAL
    pairs = torch.stack([order[:-1], order[1:]], dim=1)[near].sort().values.tolist()
    if pairs:
        first, second = (names[number] for number in pairs[0])
        logger.warning(
            "%d classes have the same embedding as another, first %.60r and %.60r: give them names that differ in more "
            "than upper and lower case, and within the text tower's context",
            len(pairs),
            first,
            second,
        )

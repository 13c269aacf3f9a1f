"""A vocabulary: the classes that a call knows, as rows of a classifier, and which of them were seen in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipself_d2.errors import InputError
from clipself_d2.vocabulary.synonyms import ClassNames, check_vocabulary, max_over_synonyms, synonym_classes
from clipself_d2.vocabulary.text_embeddings import load_text_embeddings


class Vocabulary(nn.Module):
    """K classes with their text embeddings; an argument of a call, or a model's own.

    It moves with the module that holds it and is not part of a state dict.

    Attributes:
        classes: for every class its synonyms, the first of which is its name.
        is_base: K bool; false for the classes that no training label named.
        text_embeddings: N x C unit vectors: a row a class, or a row a synonym, of which a class takes the best.
        class_ids: N class numbers.
        background: C unit vector, or None.
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
    ):
        """Checks and keeps the classes.

        Args:
            classes: K names, or lists of synonyms.
            embeddings: K x C, or one row a synonym, class by class.
            novel: names of the classes that were never trained on, the first of their synonyms.
            background: C, the embedding of what is none of the classes.

        Raises:
            InputError: an empty vocabulary, a repeated class, a name in `novel` that is repeated or no class's, another
                number of rows, a background of another length.
        """
        super().__init__()
        self.classes = check_vocabulary(classes)
        names = self.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"vocabulary: class {twice!r} is given twice, so it would be two classes: remove one")
        _check_novel(novel, self.classes)
        synonyms = sum(map(len, self.classes))
        if embeddings.ndim != 2 or len(embeddings) not in (len(names), synonyms):
            raise InputError(
                f"vocabulary: embeddings are {tuple(embeddings.shape)} for {len(names)} classes of {synonyms} "
                "synonyms: give a row for each class, or for each synonym"
            )
        if background is not None and background.shape != embeddings.shape[1:]:
            raise InputError(
                f"vocabulary: the background's embedding is {tuple(background.shape)}, the classes' have length "
                f"{embeddings.shape[1]}: use the same text tower"
            )
        numbers = torch.arange(len(names)) if len(embeddings) == len(names) else synonym_classes(classes)
        is_base = torch.tensor([name not in novel for name in names], device=embeddings.device)
        self.register_buffer("is_base", is_base, persistent=False)
        self.register_buffer("text_embeddings", F.normalize(embeddings.detach().float(), dim=-1), persistent=False)
        self.register_buffer("class_ids", numbers.to(embeddings.device), persistent=False)
        unit = None if background is None else F.normalize(background.detach().float(), dim=-1)
        self.register_buffer("background", unit, persistent=False)

    @property
    def names(self) -> list[str]:
        """The classes' names, the first of their synonyms."""
        return [synonyms[0] for synonyms in self.classes]

    @property
    def num_classes(self) -> int:
        """K, without the background."""
        return len(self.classes)

    @property
    def embed_dim(self) -> int:
        """C."""
        return self.text_embeddings.shape[1]

    def __len__(self) -> int:
        return self.num_classes

    def cosines(self, features: Tensor, background: Tensor | None = None) -> Tensor:
        """Cosine of each feature with each class.

        Args:
            features: R x C unit vectors (a zero vector gives zeros).
            background: C unit vector that replaces the vocabulary's own (a learned one).

        Returns:
            R x K fp32, or R x (K + 1) with the background last where there is one.
        """
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            rows = self.text_embeddings.to(features.device)
            cosines = features @ rows.T
            if len(rows) != self.num_classes:
                cosines = max_over_synonyms(cosines, self.class_ids)
            background = self.background if background is None else background
            if background is None:
                return cosines
            return torch.cat([cosines, (features @ background.to(features))[:, None]], dim=1)

    def check_embed_dim(
        self, embed_dim: int, whose: str = "the image tower's", mend: str = "use the text tower of the same CLIP"
    ) -> None:
        """Raises InputError if the embeddings are of another length than what they are to be compared with.

        Args:
            embed_dim: the length that is wanted.
            whose: embeddings have it, for the message.
            mend: what to do, for the message.
        """
        if self.embed_dim != embed_dim:
            raise InputError(f"vocabulary: its embeddings have length {self.embed_dim}, {whose} {embed_dim}: {mend}")

    def only_base(self) -> Vocabulary:
        """The vocabulary of the seen classes alone.

        Raises:
            InputError: if there is none.
        """
        if not self.is_base.any():
            raise InputError("vocabulary: none of its classes is seen")
        kept = [synonyms for synonyms, seen in zip(self.classes, self.is_base.tolist(), strict=True) if seen]
        return Vocabulary(kept, self.text_embeddings[self.is_base[self.class_ids]], background=self.background)


def _check_novel(novel: Sequence[str], classes: Sequence[Sequence[str]]) -> None:
    names = [synonyms[0] for synonyms in classes]
    for number, name in enumerate(novel):
        if name in novel[:number]:
            raise InputError(f"vocabulary: novel class {name!r} is given twice: remove one")
        if name not in names:
            others = [synonyms[0] for synonyms in classes if name in synonyms]
            hint = f", only a synonym of {others[0]!r}: give that name" if others else ""
            raise InputError(f"vocabulary: novel class {name!r} is not among the {len(names)} classes{hint}")


def build_vocabulary(
    classes: ClassNames,
    text: str | Path | Callable[[ClassNames], Tensor],
    *,
    novel: Sequence[str] = (),
    background: str | None = "background",
    embed_dim: int | None = None,
) -> Vocabulary:
    """Embeds class names.

    Args:
        classes: names, or lists of synonyms.
        text: a `clip.TextClassifier`; or a file of embeddings (`clip.load_text_embeddings`), which holds the background
            last (``.npy``) or by name (``.pt``).
        novel: names of the classes that were never trained on.
        background: the word for what is none of the classes; None for a vocabulary without background.
        embed_dim: length of the image tower's embeddings, against which a file is checked.

    Returns:
        The vocabulary, on the text tower's device.

    Raises:
        InputError: see `Vocabulary` and `clip.load_text_embeddings`; the background among the classes.
    """
    checked = check_vocabulary(classes)
    words = [*checked, (background,)] if background else checked
    if background and any(background in synonyms for synonyms in checked):
        raise InputError(f"vocabulary: {background!r} is the background's word and cannot be a class too")
    if callable(text):
        rows = text(words)
    else:
        if embed_dim is None:
            raise InputError(f"{text}: say embed_dim, the length of the image tower's embeddings")
        rows = load_text_embeddings(text, [synonyms[0] for synonyms in words], embed_dim)
    if not background:
        return Vocabulary(classes, rows, novel=novel)
    return Vocabulary(classes, rows[:-1], novel=novel, background=rows[-1])

"""Class names to text embeddings by prompt templates, cached on disk by content."""

import hashlib
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from clipself_d2.clip.checkpoint import read_tensors, save_tensors
from clipself_d2.clip.text import TextTower
from clipself_d2.errors import InputError
from clipself_d2.vocabulary.parse import ClassNames, check_vocabulary
from clipself_d2.vocabulary.synonyms import by_synonyms
from clipself_d2.vocabulary.templates import TEMPLATES, fill

logger = logging.getLogger(__name__)


class TextClassifier:
    """Turns class names (with synonyms) into text embeddings, by prompt templates; cached on disk by content.

    Each prompt's embedding is normalized; the mean over the templates of a name is normalized again (ViLD).

    Args:
        tower: the text tower; its device is used.
        templates: ``"vild"`` (63 templates, the paper's), ``"photo"`` (``a photo of a {}.``), a template, or a sequence
            of templates; ``{}`` is the name and ``{article}`` "a" or "an".
        synonyms: ``"mean"``: one embedding per class, the normalized mean over its synonyms. ``"max"``: one per
            synonym; take the best of each class with `max_over_synonyms`.
        ask_synonyms_of: a label set or file of classes (see `by_synonyms`); its other names of each class are asked for
            instead of the class's name, to measure how much a model depends on names. Needs ``"mean"``.
        cache_dir: where embeddings are kept; by default ``$CLIPSELF_D2_CACHE``, else ``~/.cache/clipself_d2``. Several
            processes may share it: a file is written atomically, under the hash of everything that it depends on.
        batch_size: prompts encoded at once.

    Raises:
        InputError: an unknown name of templates, a template without ``{}``, an unknown value of `synonyms`, synonyms
            asked for class by class with ``"max"``.
    """

    def __init__(
        self,
        tower: TextTower,
        templates: str | Sequence[str] = "vild",
        synonyms: str = "mean",
        ask_synonyms_of: str | None = None,
        cache_dir: str | Path | None = None,
        batch_size: int = 256,
    ) -> None:
        if synonyms not in ("mean", "max"):
            raise InputError(f"synonyms is '{synonyms}': use 'mean' or 'max'")
        if ask_synonyms_of is not None and synonyms != "mean":
            raise InputError(f"text.ask_synonyms_of='{ask_synonyms_of}' needs text.synonyms=mean: one text per class")
        self.tower = tower
        self.templates = _resolve_templates(templates)
        self.synonyms = synonyms
        self.ask_synonyms_of = ask_synonyms_of
        self.cache_dir = Path(
            cache_dir or os.environ.get("CLIPSELF_D2_CACHE") or Path.home() / ".cache" / "clipself_d2"
        )
        self.batch_size = batch_size

    def __call__(self, vocabulary: ClassNames) -> Tensor:
        """Embed a vocabulary.

        Args:
            vocabulary: a class is a name, or a sequence of synonyms.

        Returns:
            fp32 unit vectors on the tower's device: ``K x C`` for ``"mean"``; for ``"max"`` ``M x C``, one per synonym,
            class by class.

        Raises:
            InputError: an empty vocabulary, a class that is not text or is given twice.
        """
        classes = check_vocabulary(vocabulary)
        if self.ask_synonyms_of is not None:
            names, classes = classes, by_synonyms(classes, self.ask_synonyms_of)
            changed = sum(new != old for new, old in zip(classes, names, strict=True))
            logger.info(
                "%d of %d classes are asked for by their synonyms in %s", changed, len(names), self.ask_synonyms_of
            )
        self._warn_of_cut_prompts([name for synonyms in classes for name in synonyms])
        device = self.tower.logit_scale.device
        path = self.cache_dir / "text" / f"{self._key(classes)}.safetensors"
        rows = _load(path)
        if rows is None:
            rows = self._embed(classes)
            with suppress(OSError):  # a cache that cannot be written does not matter
                save_tensors({"rows": rows}, path)
        return rows.to(device)

    def _warn_of_cut_prompts(self, names: Sequence[str]) -> None:
        limit = self.tower.tokenizer.context_length
        longest = max(self.templates, key=len)
        prompts = {name: fill(longest, name) for name in names}
        # A token has at least a byte; two mark start and end.
        long = [name for name, prompt in prompts.items() if len(prompt.encode()) > limit - 2]
        cut = [name for name, is_cut in zip(long, self.tower.is_cut([prompts[n] for n in long]), strict=True) if is_cut]
        if cut:
            logger.warning("prompts of %d names are cut at %d tokens, first that of %.60r", len(cut), limit, cut[0])

    @torch.no_grad()  # not inference_mode: a trainable head must be able to save the result for its backward
    def _embed(self, classes: list[tuple[str, ...]]) -> Tensor:
        names = [name for synonyms in classes for name in synonyms]
        prompts = [fill(template, name) for name in names for template in self.templates]
        training = self.tower.training
        self.tower.eval()
        batches = [prompts[start : start + self.batch_size] for start in range(0, len(prompts), self.batch_size)]
        shown = tqdm(batches, "embedding prompts", unit=" batches", delay=5, leave=False)
        # The first caller fills the cache for all, so no caller's autocast may decide the precision.
        with torch.autocast(self.tower.logit_scale.device.type, enabled=False):
            embeddings = torch.cat([F.normalize(self.tower(batch).float(), dim=-1) for batch in shown])
        self.tower.train(training)
        rows = F.normalize(embeddings.unflatten(0, (len(names), -1)).mean(dim=1), dim=-1)
        if self.synonyms == "max":
            return rows
        return F.normalize(torch.stack([group.mean(dim=0) for group in rows.split([len(c) for c in classes])]), dim=-1)

    def _key(self, classes: list[tuple[str, ...]]) -> str:
        precision = str(self.tower.logit_scale.dtype)
        content = repr((self.tower.fingerprint, self.templates, self.synonyms, classes, precision))
        return hashlib.blake2b(content.encode(), digest_size=20).hexdigest()


def _resolve_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]
        templates = (templates,)
    if not templates or not all(isinstance(template, str) and "{}" in template for template in templates):
        raise InputError(
            f"templates {templates!r}: give one of {', '.join(TEMPLATES)}, or templates with {{}} where the name stands"
        )
    return tuple(templates)


def _load(path: Path) -> Tensor | None:
    try:
        return read_tensors(path)["rows"]
    except (OSError, KeyError, InputError):  # absent or damaged: computed again
        return None

"""The text tower, and class names turned into rows of a classifier."""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from clipself_d2.clip.checkpoint import content_hash, save_tensors
from clipself_d2.clip.templates import TEMPLATES, fill
from clipself_d2.errors import InputError

ClassNames = Sequence[str | Sequence[str]]


class TextTower(nn.Module):
    """The text encoder of an open_clip model with its tokenizer.

    The state dict has open_clip's names (``text.*`` or ``transformer.*``, ``token_embedding.*`` ..., and
    ``logit_scale``), so ``{**image_tower.state_dict(), **text_tower.state_dict()}`` is a whole open_clip checkpoint.

    Args:
        model: an open_clip model; its image tower is taken out of it.
        tokenizer: open_clip's tokenizer of that model, ``texts -> N x context_length`` tokens.

        embed_dim: length of an embedding.

    Attributes:
        logit_scale: logarithm of the inverse temperature, the model's own parameter.
    """

    def __init__(self, model: Any, tokenizer: Any, embed_dim: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        del model.visual
        self.clip = model
        self.tokenizer = tokenizer
        self._fingerprint: tuple[object, str] = (None, "")
        self.register_state_dict_post_hook(_drop_clip_prefix)
        self.register_load_state_dict_pre_hook(_add_clip_prefix)

    @property
    def logit_scale(self) -> nn.Parameter:
        """See the class."""
        return self.clip.logit_scale

    @property
    def fingerprint(self) -> str:
        """Content hash of the weights that shape an embedding and of the tokenizer's vocabulary, for caches."""
        state = {key: value for key, value in self.state_dict().items() if not key.startswith("logit_")}
        version = tuple((value.data_ptr(), value._version) for value in state.values())
        if self._fingerprint[0] != version:
            self._fingerprint = (version, content_hash(state, _describe_tokenizer(self.tokenizer)).hex())
        return self._fingerprint[1]

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Embed texts: ``N x C``, not normalised, differentiable in the weights."""
        tokens = self.tokenizer(list(texts)).to(self.clip.logit_scale.device)
        text = getattr(self.clip, "text", self.clip)  # CustomTextCLIP keeps its transformer apart
        pool = getattr(text, "pool_type", getattr(text, "text_pool_type", None))
        if pool == "argmax" and getattr(text, "attn_mask", None) is not None and getattr(text, "cls_emb", None) is None:
            return _encode_causal(text, tokens)
        return self.clip.encode_text(tokens)


class TextClassifier:
    """Class names (with synonyms) and templates to rows of a classifier, cached on disk by content.

    Each prompt's embedding is normalised; the templates of a name are averaged and normalised again (ViLD).

    Args:
        tower: the text tower; its device is used.
        templates: ``"vild"`` (63 templates, the paper's), ``"photo"`` (``a photo of a {}.``), a template, or a sequence
            of templates; ``{}`` is the name and ``{article}`` "a" or "an".
        synonyms: ``"mean"``: the rows of a class's synonyms are averaged and normalised, one row a class. ``"max"``:
            every synonym keeps its row; take the best of each class with `max_over_synonyms`.
        cache_dir: where rows are kept; by default ``$CLIPSELF_D2_CACHE``, else ``~/.cache/clipself_d2``. Processes may
            share it: a file appears whole, under the hash of all that it depends on.
        batch_size: prompts encoded at once.

    Raises:
        InputError: an unknown name of templates, a template without ``{}``, another word for `synonyms`.
    """

    def __init__(
        self,
        tower: TextTower,
        templates: str | Sequence[str] = "vild",
        synonyms: str = "mean",
        cache_dir: str | Path | None = None,
        batch_size: int = 256,
    ) -> None:
        if synonyms not in ("mean", "max"):
            raise InputError(f"synonyms is '{synonyms}': use 'mean' or 'max'")
        self.tower = tower
        self.templates = _resolve_templates(templates)
        self.synonyms = synonyms
        self.cache_dir = Path(
            cache_dir or os.environ.get("CLIPSELF_D2_CACHE") or Path.home() / ".cache" / "clipself_d2"
        )
        self.batch_size = batch_size

    def __call__(self, vocabulary: ClassNames) -> Tensor:
        """Embed a vocabulary.

        Args:
            vocabulary: a class is a name, or a sequence of synonyms.

        Returns:
            fp32 unit vectors on the tower's device: ``K x C`` for ``"mean"``; for ``"max"`` ``M x C``, one row a
            synonym, class by class.

        Raises:
            InputError: an empty vocabulary, a class that is no text or is given twice.
        """
        classes = check_vocabulary(vocabulary)
        device = self.tower.logit_scale.device
        path = self.cache_dir / "text" / f"{self._key(classes)}.safetensors"
        rows = _load_rows(path)
        if rows is None:
            rows = self._embed(classes)
            with suppress(OSError):  # a cache that cannot be written is no reason to fail
                save_tensors({"rows": rows}, path)
        return rows.to(device)

    @torch.no_grad()  # not inference_mode: a head that trains must be able to save the rows for its backward
    def _embed(self, classes: list[tuple[str, ...]]) -> Tensor:
        names = [name for synonyms in classes for name in synonyms]
        prompts = [fill(template, name) for name in names for template in self.templates]
        training = self.tower.training
        self.tower.eval()
        batches = [prompts[start : start + self.batch_size] for start in range(0, len(prompts), self.batch_size)]
        shown = tqdm(batches, "embedding prompts", unit=" batches", delay=5, leave=False)
        # Whoever comes first fills the cache for all: no caller's autocast may decide on its precision.
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


def check_vocabulary(vocabulary: ClassNames) -> list[tuple[str, ...]]:
    """Every class (a name, or a list or tuple of names) as a tuple of synonyms.

    Raises:
        InputError: an empty, repeated or wrongly typed entry.
    """
    if isinstance(vocabulary, str) or len(vocabulary) == 0:
        raise InputError("the vocabulary must be a list of at least one class name")
    classes = [tuple(entry) if isinstance(entry, list | tuple) else (entry,) for entry in vocabulary]
    seen: set[tuple[str, ...]] = set()
    for number, synonyms in enumerate(classes):
        if not synonyms or not all(isinstance(name, str) and name.strip() for name in synonyms):
            raise InputError(
                f"class {number} of the vocabulary is {vocabulary[number]!r}: give a name or a list of names"
            )
        if synonyms in seen or len(set(synonyms)) < len(synonyms):
            raise InputError(f"class {number} of the vocabulary, {vocabulary[number]!r}, is given twice: remove one")
        seen.add(synonyms)
    return classes


def synonym_classes(vocabulary: ClassNames) -> Tensor:
    """The class number of each row that a ``"max"`` classifier returns, ``M`` longs."""
    classes = check_vocabulary(vocabulary)
    return torch.repeat_interleave(torch.arange(len(classes)), torch.tensor([len(c) for c in classes]))


def embed_synonyms(text: Callable[[ClassNames], Tensor], classes: Sequence[Sequence[str]]) -> Tensor:
    """A row a synonym, class by class, of classes that may share names: each name is embedded once.

    Args:
        text: a `TextClassifier`.
        classes: for each class its synonyms.

    Returns:
        ``M x C``, on the text tower's device.
    """
    names = list(dict.fromkeys(name for synonyms in classes for name in synonyms))
    position = {name: number for number, name in enumerate(names)}
    return text(names)[[position[name] for synonyms in classes for name in synonyms]]


def max_over_synonyms(scores: Tensor, classes: Tensor) -> Tensor:
    """The best synonym's score for each class (ODISE, FC-CLIP).

    Args:
        scores: ``... x M``, one column a synonym.
        classes: ``M`` class numbers 0..K-1, each at least once; see `synonym_classes`.

    Returns:
        ``... x K``.
    """
    count = int(classes.max()) + 1
    index = classes.to(scores.device).expand(scores.shape)
    return scores.new_empty(*scores.shape[:-1], count).scatter_reduce(-1, index, scores, "amax", include_self=False)


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


def _load_rows(path: Path) -> Tensor | None:
    try:
        return load_file(path)["rows"]
    except (OSError, KeyError, SafetensorError):  # absent, or damaged by something else than us: made again
        return None


def _encode_causal(text: Any, tokens: Tensor) -> Tensor:
    """CLIP's text transformer on the tokens up to the last end of a text.

    Attention is causal, so the padding after the end token, most of the context of a prompt, changes nothing.
    """
    ends = tokens.argmax(dim=-1)  # the end token has the largest number
    length = int(ends.max()) + 1
    x = text.token_embedding(tokens[:, :length]) + text.positional_embedding[:length]
    x = text.ln_final(text.transformer(x, attn_mask=text.attn_mask[:length, :length]))
    pooled = x[torch.arange(len(x), device=x.device), ends]
    projection = text.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection


def _describe_tokenizer(tokenizer: Any) -> str:
    words = getattr(tokenizer, "encoder", None) or tokenizer.tokenizer.get_vocab()
    return f"{type(tokenizer).__name__} {tokenizer.context_length} {sorted(words.items())}"


def _drop_clip_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}clip.")]:
        state[prefix + key.removeprefix(f"{prefix}clip.")] = state.pop(key)


def _add_clip_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        state[f"{prefix}clip.{key.removeprefix(prefix)}"] = state.pop(key)

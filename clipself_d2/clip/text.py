"""The text tower: a CLIP's text encoder with its tokenizer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clipself_d2.clip.checkpoint import content_hash


class TextTower(nn.Module):
    """The text encoder of an open_clip model with its tokenizer.

    The state dict has open_clip's names (``text.*`` or ``transformer.*``, ``token_embedding.*`` ..., and
    ``logit_scale``), so ``{**image_tower.state_dict(), **text_tower.state_dict()}`` is a whole open_clip checkpoint.

    Args:
        model: an open_clip model; its image tower is removed.
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
        """Content hash of the weights that affect an embedding and of the tokenizer's vocabulary, for caches."""
        state = {key: value for key, value in self.state_dict().items() if not key.startswith("logit_")}
        version = None  # inference tensors do not tell of changes: hashed each time
        if not any(value.is_inference() for value in state.values()):
            version = tuple((value.data_ptr(), value._version) for value in state.values())
        if version is None or self._fingerprint[0] != version:
            self._fingerprint = (version, content_hash(state, _describe_tokenizer(self.tokenizer)).hex())
        return self._fingerprint[1]

    def is_cut(self, texts: Sequence[str]) -> list[bool]:
        """Tell of each text whether it is longer than the context and loses its end."""
        limit = self.tokenizer.context_length
        tokens = self.tokenizer([*texts, ""], context_length=8 * limit)
        padding = tokens[-1, -1]
        return (tokens[:-1, limit:] != padding).any(dim=1).tolist()

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Embed texts: ``N x C``, not normalized, differentiable in the weights."""
        tokens = self.tokenizer(list(texts))
        text = getattr(self.clip, "text", self.clip)  # CustomTextCLIP's transformer is a module of its own
        pool = getattr(text, "pool_type", getattr(text, "text_pool_type", None))
        if pool == "argmax" and getattr(text, "attn_mask", None) is not None and getattr(text, "cls_emb", None) is None:
            return _encode_causal(text, tokens)
        return self.clip.encode_text(tokens.to(self.clip.logit_scale.device))


def _encode_causal(text: Any, tokens: Tensor) -> Tensor:
    """CLIP's text transformer, run up to the batch's last end token.

    Attention is causal: the padding after the end token, most of a prompt's context, changes nothing.
    """
    ends = tokens.argmax(dim=-1)  # the end token has the largest number
    length = int(ends.max()) + 1
    tokens, ends = (x.to(text.attn_mask.device, non_blocking=True) for x in (tokens, ends))
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

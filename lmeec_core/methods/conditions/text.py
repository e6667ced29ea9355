"""Encodes text as vectors: with a text model of the library transformers, or by hashed words."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from lmeec_core.checkpoint import CheckpointError


class TextVectors(NamedTuple):
    """A text as vectors."""

    pooled: Tensor
    """(C,) vector of the whole text."""
    words: Tensor
    """(L, C) vectors of its tokens; L is 0 for a text without words."""


class TextEncoder(Protocol):
    """Encodes texts as vectors."""

    @property
    def dim(self) -> int:
        """C, the size of the vectors."""

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes the vectors."""

    def encode(self, texts: Sequence[str]) -> list[TextVectors]:
        """Vectors of texts, float32, without gradients."""


class HashedWords:
    """Each word is a random unit vector that depends only on its letters.

    Vectors of synonyms are unrelated, so a network trained with them only knows the words that it
    has seen. For texts with a small, fixed vocabulary, and for tests.

    Args:
        dim: size of the vectors.
        known: words, in lower case, that are encoded; others are ignored. None: all words.
    """

    def __init__(self, dim: int = 64, known: Iterable[str] | None = None) -> None:
        self.dim = dim
        self.known = None if known is None else frozenset(known)

    @property
    def fingerprint(self) -> str:
        """See :class:`TextEncoder`; it does not depend on the known words."""
        return f"hashed words, {self.dim}"

    def encode(self, texts: Sequence[str]) -> list[TextVectors]:
        """See :class:`TextEncoder`; the whole text is the mean of its words."""
        found = []
        for text in texts:
            words = [self._word(w) for w in words_of(text) if self.known is None or w in self.known]
            rows = torch.stack(words) if words else torch.zeros(0, self.dim)
            found.append(TextVectors(rows.sum(dim=0) / max(1, len(rows)), rows))
        return found

    def _word(self, word: str) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
        vector = np.random.Generator(np.random.PCG64(seed)).standard_normal(self.dim)
        return torch.from_numpy((vector / np.linalg.norm(vector)).astype(np.float32))


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case and in order."""
    return re.findall(r"\w+", text.casefold())


class TextModel:
    """A text model saved by transformers: CLIP's text encoder, or a small sentence model.

    Nothing is downloaded, and no code from the checkpoint is executed.

    Args:
        folder: folder with config.json, the weights as .safetensors, and the tokenizer.
        device: the device to run on.

    Raises:
        CheckpointError: the model cannot be loaded, or weights are missing.
        ImportError: transformers is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], device: str = "cpu") -> None:
        from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel

        path = Path(folder)
        if not (path / "config.json").is_file():
            raise CheckpointError(
                f"text model {path}: a folder with config.json expected, as transformers saves a "
                "model and its tokenizer"
            )
        try:
            kind = AutoConfig.from_pretrained(path, local_files_only=True).model_type
            # Of a whole CLIP, the part for text.
            family = CLIPTextModel if kind.startswith("clip") else AutoModel
            self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            loaded: Any = family.from_pretrained(
                path, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise CheckpointError(f"text model {path}: cannot be loaded: {error}") from error
        self._model, report = loaded
        # Of a sentence model, the pooling layer is often not saved; it is not used here.
        missing = sorted(n for n in report["missing_keys"] if not n.startswith("pooler."))
        if missing:
            raise CheckpointError(
                f"text model {path}: {len(missing)} weights are missing, for example {missing[0]!r}"
            )
        self._clip = family is CLIPTextModel
        self._model.to(device).eval()
        self.dim = int(self._model.config.hidden_size)

    @cached_property
    def fingerprint(self) -> str:
        """See :class:`TextEncoder`."""
        digest = hashlib.sha256(b"text model, 1")
        for name, value in sorted(self._model.state_dict().items()):
            digest.update(name.encode() + value.float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> list[TextVectors]:
        """See :class:`TextEncoder`. The whole text is CLIP's last token, or the mean of all tokens
        of another model. What is longer than the model allows is cut off."""
        if not texts:
            return []
        limit = min(self._tokenizer.model_max_length, self._model.config.max_position_embeddings)
        given = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        ids, mask = (given[n].to(self._model.device) for n in ("input_ids", "attention_mask"))
        out = self._model(input_ids=ids, attention_mask=mask)
        found = []
        for i in range(len(texts)):
            words = out.last_hidden_state[i][mask[i].bool()].float().cpu()
            pooled = out.pooler_output[i].float().cpu() if self._clip else words.mean(dim=0)
            found.append(TextVectors(pooled, words))
        return found

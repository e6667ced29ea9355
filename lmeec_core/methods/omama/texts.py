"""Descriptions of objects in words for omama."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lmeec_core.checkpoint import CheckpointError, check_weights, read_state_dict
from lmeec_core.errors import InputError
from lmeec_core.methods.conditions import HashedWords, TextEncoder, TextModel, TextScorer
from lmeec_core.methods.conditions.scoring import FORMS
from lmeec_core.methods.conditions.text import TextVectors, words_of
from lmeec_core.methods.omama.features import Features
from lmeec_core.methods.omama.settings import OMaMaSettings
from lmeec_core.methods.omama.weights import read_facts

_MAKE = "python -m lmeec_core.experiments.text makes these weights"


@dataclass(frozen=True)
class ObjectTexts:
    """Descriptions of objects, and the scorer that uses them.

    Attributes:
        scorer: adds a term for the description to the scores.
        texts: encoded descriptions by object; None if the encoder knows no word of it.
    """

    scorer: TextScorer
    texts: Mapping[str, TextVectors | None]

    def scores(
        self, names: Sequence[str], scores: Tensor, objects: Tensor, candidates: Tensor
    ) -> Tensor:
        """Logits (M, N) with the texts; those of an object without text are the scores.

        Args:
            names: of the M objects.
            scores: (M, N) without text, as logits.
            objects, candidates: descriptors (M, 2C) and (N, 2C).
        """
        texts = [self.texts.get(name) for name in names]
        dim = self.scorer.dim
        found: Tensor = self.scorer(scores, objects[:, :dim], candidates[:, :dim], texts)
        described = torch.tensor([text is not None for text in texts], device=scores.device)
        return torch.where(described[:, None], found, scores)


def text_facts(scorer: TextScorer, features: str, encoder: TextEncoder) -> dict[str, str]:
    """The facts stored in the file of a scorer's weights.

    Args:
        scorer: the network.
        features: their fingerprint.
        encoder: of the texts that it was trained with.
    """
    facts = {"form": scorer.form, "width": str(scorer.width), "dim": str(scorer.dim),
             "text_dim": str(encoder.dim), "features": features,
             "encoder": encoder.fingerprint}  # fmt: skip
    if isinstance(encoder, HashedWords) and encoder.known is not None:
        facts["words"] = json.dumps(sorted(encoder.known))
    return facts


def read_texts(
    texts: Mapping[str, str], settings: OMaMaSettings, features: Features, device: torch.device,
    encoder: TextEncoder | None = None,
) -> ObjectTexts:  # fmt: skip
    """The texts encoded, and the scorer that they need.

    Args:
        texts: by object.
        settings: name the scorer's weights and the encoder.
        features: of the method.
        device: where the scorer runs.
        encoder: in place of the one of the settings.

    Raises:
        InputError: an empty text, no encoder or one that the weights are not for, or no known word
            in a text.
        CheckpointError: no weights, or weights that do not fit.
    """
    facts, path = _facts(settings), Path(settings.text_weights)
    if facts["features"] != features.fingerprint:
        raise CheckpointError(
            f"text weights {path}: they were trained with other features (fingerprint "
            f"{facts['features']}) than those given ({features.fingerprint}); {_MAKE}"
        )
    used = encoder or _encoder(settings, facts, device)
    if used.fingerprint != facts["encoder"]:
        raise InputError(
            f"text weights {path}: they were trained with the text encoder {facts['encoder']}, and "
            f"{used.fingerprint} was given"
        )
    scorer = TextScorer(
        next(f for f in FORMS if f == facts["form"]), int(facts["dim"]), int(facts["text_dim"]),
        int(facts["width"]),
    )  # fmt: skip
    state = read_state_dict(path)
    check_weights(scorer, state, str(path))
    scorer.load_state_dict(state)
    _check(texts, facts)
    return ObjectTexts(
        scorer.to(device).eval(), dict(zip(texts, used.encode(list(texts.values())), strict=True))
    )


def text_note(texts: Mapping[str, str], settings: OMaMaSettings) -> str | None:
    """A remark about words that the text weights do not know, and about texts without effect.

    Raises:
        InputError, CheckpointError: see :func:`read_texts`.
    """
    if not texts:
        return None
    facts = _facts(settings)
    _check(texts, facts)
    known = _known(facts)
    if known is None:
        return None
    unknown = dict.fromkeys(w for text in texts.values() for w in words_of(text) if w not in known)
    if not unknown:
        return None
    return (
        f"text: {', '.join(map(repr, unknown))}: not among the words that "
        f"{settings.text_weights} was trained with; no effect"
    )


def _check(texts: Mapping[str, str], facts: Mapping[str, str]) -> None:
    """Raise an error for texts that cannot have an effect."""
    known = _known(facts)
    for name, text in texts.items():
        words = words_of(text)
        if not words:
            raise InputError(f"text of {name!r}: {text!r} given, a description in words expected")
        if known is not None and not known.intersection(words):
            raise InputError(
                f"text of {name!r}: {text!r} given, and the weights know none of its words; they "
                f"know {', '.join(sorted(known))}"
            )


def _known(facts: Mapping[str, str]) -> frozenset[str] | None:
    return frozenset(json.loads(facts["words"])) if "words" in facts else None


def _facts(settings: OMaMaSettings) -> dict[str, str]:
    path = settings.text_weights
    if not path:
        raise CheckpointError(
            "text: a description given, but omama.text_weights, which are needed to compare it "
            f"with candidates, are not; {_MAKE}"
        )
    facts = read_facts(Path(path))
    needed = {"form", "width", "dim", "text_dim", "features", "encoder"}
    if not needed <= facts.keys() or facts["form"] not in FORMS:
        raise CheckpointError(f"text weights {path}: not weights for texts; {_MAKE}")
    if facts["form"] == "none":
        raise CheckpointError(f"text weights {path}: they were trained without texts")
    return facts


def _encoder(
    settings: OMaMaSettings, facts: Mapping[str, str], device: torch.device
) -> TextEncoder:
    """The encoder of the settings."""
    if settings.text_encoder:
        return TextModel(settings.text_encoder, str(device))
    known = _known(facts)
    if known is None:
        raise InputError(
            f"omama.text_encoder: nothing given; the folder of the text model that "
            f"{settings.text_weights} was trained with expected"
        )
    return HashedWords(int(facts["text_dim"]), known)

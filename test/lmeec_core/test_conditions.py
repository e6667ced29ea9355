"""MCFuse, XObjAlign and text encoders, with what follows from the published equations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmeec_core.checkpoint import CheckpointError
from lmeec_core.errors import InputError
from lmeec_core.methods.conditions import (
    ConditionScorer,
    HashedWords,
    MCFuse,
    RegionPool,
    TextEncoder,
    TextFuse,
    TextModel,
    TextScorer,
    cross_view_align,
)
from lmeec_core.methods.conditions.text import TextVectors
from lmeec_core.model import MVMoE

DIM = 16


def rows(count: int, seed: int, dim: int = DIM) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 5), seed=st.integers(0, 99))
def test_mcfuse_is_the_published_equation_with_its_oddities(count: int, seed: int) -> None:
    torch.manual_seed(seed)
    fuse, regions, text = MCFuse(DIM), rows(count, seed), rows(1, seed + 100)
    attention = fuse.attention
    q, k, v = (
        x @ w.T + b
        for x, w, b in zip(
            (text, regions, regions),
            attention.in_proj_weight.chunk(3),
            attention.in_proj_bias.chunk(3),
            strict=True,
        )  # fmt: skip
    )
    mixed = (q @ k.T / DIM**0.5).softmax(dim=1) @ v
    mixed = mixed @ attention.out_proj.weight.T + attention.out_proj.bias
    out = fuse(regions, text)
    torch.testing.assert_close(out, 0.5 * regions + 0.5 * mixed, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fuse(regions), regions)  # no text
    # All objects get the same vector.
    added = out - 0.5 * regions
    torch.testing.assert_close(added, added[:1].expand_as(added), atol=1e-5, rtol=1e-4)
    # With one object the text has no effect; with several it has.
    apart = (fuse(regions, 9 * rows(1, seed + 200)) - out).abs().max()
    assert apart < 1e-6 if count == 1 else apart > 1e-5


def test_text_matters_where_the_object_asks_it() -> None:
    torch.manual_seed(1)
    fuse, regions = TextFuse(DIM), rows(2, 1)
    plain = fuse(regions, [None, None])
    assert (plain == regions).all()
    one = fuse(regions, [rows(3, 5), None])
    other = fuse(regions, [rows(3, 6), None])
    assert (one[0] - other[0]).abs().max() > 1e-3  # also for a single object
    assert (one[1] == regions[1]).all()  # each object has its own text
    with pytest.raises(InputError, match="1 texts given for 2"):
        fuse(regions, [None])
    with pytest.raises(InputError, match=r"words \(3, 5\)"):
        fuse(regions, [rows(3, 0, 5), None])


def test_alignment_is_a_mean_distance() -> None:
    one = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    distance = cross_view_align(one, torch.zeros(2, 2))
    assert distance.item() == 2.5
    distance.backward()
    torch.testing.assert_close(one.grad, torch.tensor([[0.3, 0.4], [0.0, 0.0]]))
    assert cross_view_align(torch.zeros(0, 2), torch.zeros(0, 2)).item() == 0
    with pytest.raises(InputError, match="same objects"):
        cross_view_align(one, torch.zeros(1, 2))


def test_regions_are_pooled_and_scored() -> None:
    features = rows(DIM, 3, 6 * 8).view(DIM, 6, 8)
    masks = torch.zeros(3, 12, 16, dtype=torch.bool)
    masks[0, 2:4, 4:6] = True  # one place
    masks[1] = True
    found = RegionPool()(features, masks)
    torch.testing.assert_close(found[0], features[:, 1, 2])
    torch.testing.assert_close(found[1], features.mean(dim=(1, 2)), atol=1e-5, rtol=1e-4)
    assert not found[2].any()
    scorer = ConditionScorer(DIM, 5)
    conditions, candidates = found[:2], rows(7, 4, 5)
    scores = scorer(conditions, candidates)
    want = [[(c @ scorer.project(one)).item() for one in candidates] for c in conditions]
    torch.testing.assert_close(scores, torch.tensor(want), atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match=r"candidates \(7, 5\)"):
        ConditionScorer(DIM)(conditions, candidates)


def test_hashed_words_depend_on_the_words_only() -> None:
    encoder: TextEncoder = HashedWords(DIM)
    one, other, nothing = encoder.encode(["A blue mug", "mug, BLUE: a", "..."])
    assert one.words.shape == (3, DIM) and not nothing.pooled.any()
    torch.testing.assert_close(one.pooled, other.pooled)
    (again,) = HashedWords(DIM).encode(["a red mug"])
    assert (again.words[2] == one.words[2]).all() and (again.words[1] != one.words[1]).any()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP text model with a tokenizer, as transformers writes them."""
    transformers = pytest.importorskip("transformers", reason="needs the extra [transformers]")
    folder = tmp_path_factory.mktemp("text")
    words = ["a", "blue", "mug", "red"]
    names = ["<|startoftext|>", "<|endoftext|>", *(f"{w}</w>" for w in words), *"abdelmgru"]
    merges = ["#version: 0.2"]  # letter by letter, up to the words
    for word in words[1:]:
        letters = [*word[:-1], f"{word[-1]}</w>"]
        for n in range(1, len(letters)):
            merges.append(f"{''.join(letters[:n])} {letters[n]}")
    names += [m.replace(" ", "") for m in merges[1:]] + [f"{c}</w>" for c in "eugdb"]
    names = list(dict.fromkeys(names))
    (folder / "vocab.json").write_text(json.dumps({n: i for i, n in enumerate(names)}))
    (folder / "merges.txt").write_text("\n".join(merges))
    tokenizer = transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8
    )
    config = transformers.CLIPTextConfig(
        vocab_size=64, hidden_size=DIM, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=8, eos_token_id=1, bos_token_id=0,
        pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    tokenizer.save_pretrained(folder)
    transformers.CLIPTextModel(config).save_pretrained(folder)
    return folder


def test_a_saved_text_model_is_loaded(saved: Path) -> None:
    encoder: TextEncoder = TextModel(saved)
    assert encoder.dim == DIM
    blue, red, long = encoder.encode(["a blue mug", "a red mug", "a blue mug " * 9])
    assert blue.pooled.shape == (DIM,) and blue.words.shape[1] == DIM
    assert (blue.pooled - red.pooled).abs().max() > 1e-3
    assert len(long.words) == 8 and long.pooled.isfinite().all()
    (alone,) = encoder.encode(["a blue mug"])  # what it is padded with does not matter
    torch.testing.assert_close(alone.pooled, blue.pooled, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone.words, blue.words, atol=1e-5, rtol=1e-4)
    assert encoder.encode([]) == []


def test_a_text_model_that_cannot_be_loaded_is_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json expected"):
        TextModel(tmp_path)
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        TextModel(tmp_path)
    from safetensors.torch import load_file, save_file

    state = load_file(saved / "model.safetensors")
    dropped = next(name for name in state if "fc1" in name)
    del state[dropped]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="weights are missing"):
        TextModel(tmp_path)


@settings(max_examples=10, deadline=None)
@given(batch=st.integers(1, 2), height=st.integers(1, 7), width=st.integers(1, 9))
def test_mv_moe_alone_fuses_features_of_any_size(batch: int, height: int, width: int) -> None:
    torch.manual_seed(height * width)
    fuse = MVMoE(DIM)
    memory, view = rows(2 * batch, 5, DIM * height * width).view(2, batch, DIM, height, width)
    fused = fuse(memory, view)
    assert fused.shape == memory.shape
    # Every weight lies in 0 .. 1 and acts as f + w f, twice.
    for part in ("mlp1", "mlp2", "conv1", "conv2"):
        for value in getattr(fuse, part).parameters():
            torch.nn.init.zeros_(value)
    torch.testing.assert_close(fuse(memory, view), 2.25 * (memory + view))
    if batch == 2:  # the images of a batch do not see each other
        torch.testing.assert_close(fused[:1], _again(height, width, memory, view))


def _again(height: int, width: int, memory: Tensor, view: Tensor) -> Tensor:
    torch.manual_seed(height * width)
    fused: Tensor = MVMoE(DIM)(memory[:1], view[:1])
    return fused


def texts_of(*texts: str | None) -> list[TextVectors | None]:
    encoder = HashedWords(DIM)
    return [None if text is None else encoder.encode([text])[0] for text in texts]


def trained(form: str, dim: int = 6) -> TextScorer:
    """Weights as if after training; fresh ones add nothing."""
    torch.manual_seed(3)
    scorer = TextScorer(form, dim, DIM, 8).eval()  # type: ignore[arg-type]
    for parameter in scorer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return scorer


@pytest.mark.parametrize("form", ["none", "mcfuse", "words"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_text_counts_where_the_equations_say_so(form: str, count: int) -> None:
    """A fresh scorer changes no score. Then with MCFuse the text of a single object has no effect,
    and with the words as keys and values it has, on the described object alone."""
    objects, candidates, scores = rows(count, 1, 6), rows(5, 2, 6), rows(count, 3, 5)
    blue, red, nothing = (
        texts_of(text, *[None] * (count - 1)) for text in ("a blue mug", "a red pan", None)
    )
    fresh = TextScorer(form, 6, DIM)  # type: ignore[arg-type]
    torch.testing.assert_close(fresh(scores, objects, candidates, blue), scores)
    scorer = trained(form)
    told, other, silent = (scorer(scores, objects, candidates, t) for t in (blue, red, nothing))
    assert told.shape == scores.shape
    changed = (told - other).abs().amax(dim=1) > 1e-3
    want = {"none": [False] * count, "mcfuse": [count > 1] * count,
            "words": [True] + [False] * (count - 1)}  # fmt: skip
    assert changed.tolist() == want[form]
    torch.testing.assert_close(told[1:] if form == "words" else told[:0],
                               silent[1:] if form == "words" else silent[:0])  # fmt: skip


def test_wrong_forms_and_counts_are_named() -> None:
    with pytest.raises(InputError, match="form 'both' given, one of none, mcfuse, words"):
        TextScorer("both", 6, DIM)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 texts given for 1 objects"):
        trained("words")(rows(1, 1, 5), rows(1, 1, 6), rows(5, 1, 6), texts_of(None, None))


def test_words_that_are_not_known_are_left_out() -> None:
    every, some = HashedWords(DIM), HashedWords(DIM, known=["blue", "mug"])
    given, short = every.encode(["blue mug"])[0], some.encode(["A Blue mug with a handle"])[0]
    torch.testing.assert_close(given.words, short.words)
    assert not len(some.encode(["a pan"])[0].words) and every.fingerprint == some.fingerprint

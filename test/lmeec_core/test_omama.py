"""O-MaMa's matcher against numbers of its public code, and where that code fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import save_file

from lmeec_core.checkpoint import CheckpointError
from lmeec_core.engine.compare import difference
from lmeec_core.errors import InputError
from lmeec_core.methods.omama.descriptors import bounding_boxes, describe
from lmeec_core.methods.omama.loss import contrastive_loss
from lmeec_core.methods.omama.match import build, match
from lmeec_core.methods.omama.negatives import neighbours, training_candidates
from lmeec_core.methods.omama.network import OMaMa
from lmeec_core.methods.omama.weights import load_matcher

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
TOLERANCE = 1e-4


def tokens(seed: int, height: int, width: int) -> np.ndarray:
    """Patch tokens by the rule of test/data/golden/README.md."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.standard_normal((768, height // 14, width // 14), dtype=np.float32)


@pytest.fixture(scope="module")
def models(weigh: Callable[[torch.nn.Module], None]) -> dict[bool, OMaMa]:
    """The matchers of both directions."""
    found = {reverse: build(reverse) for reverse in (False, True)}
    for model in found.values():
        weigh(model)
    return found


@pytest.fixture(scope="module", params=["ego2exo", "exo2ego"])
def golden(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A recorded case, with its inputs unpacked."""
    with np.load(GOLDEN / f"omama_{request.param}.npz") as file:
        case = dict(file)
    sizes = case["query_size"], case["target_size"]
    case["tokens"] = [tokens(int(s), *z) for s, z in zip(case["token_seed"], sizes, strict=True)]
    for name, shape in (
        ("query_mask", tuple(sizes[0])),
        ("candidate_masks", (int(case["candidates"]), *sizes[1])),
    ):
        bits = np.unpackbits(case[name], count=int(np.prod(shape)))
        case[name] = bits.reshape(shape).astype(bool)
    return case


def test_parity_with_o_mama(golden: dict[str, Any], models: dict[bool, OMaMa]) -> None:
    model = models[bool(golden["reverse"])]
    query, target = golden["tokens"]
    found = match(model, query, golden["query_mask"], target, golden["candidate_masks"])
    for name, value in found._asdict().items():
        assert value.shape == golden[name].shape, name
        assert difference(value.numpy(), golden[name]) < TOLERANCE, name
    for name, view, masks in (
        ("query_descriptor", query, golden["query_mask"][None]),
        ("candidate_descriptors", target, golden["candidate_masks"]),
    ):
        described = describe(torch.from_numpy(view), torch.from_numpy(masks))
        for half in (slice(768), slice(768, None)):  # object and context
            assert difference(described[:, half].numpy(), golden[name][:, half]) < TOLERANCE
    loss = contrastive_loss(found.similarity, 2)
    assert float(loss) == pytest.approx(float(golden["loss_target2"]), rel=TOLERANCE)


def test_the_state_dict_is_the_released_one() -> None:
    shapes = {name: tuple(value.shape) for name, value in build(True).state_dict().items()}
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 11_812_994
    assert shapes["pos_embed_T"] == (1, 2500, 768) and shapes["pos_embed_Q"] == (1, 2584, 768)
    assert build(False).pos_embed_T.shape == (1, 2584, 768)
    assert shapes["mlp.mlp.0.weight"] == (768, 2304)
    assert [shapes[f"mlp_visible.{i}.weight"][0] for i in (0, 2, 4, 6)] == [768, 256, 128, 2]
    block = {name for name in shapes if name.startswith("CROSS_context_attn.")}
    parts = ["query", "key", "value", "project.0", "mlp.0", "mlp.2", "norm_input", "norm_output"]
    assert block == {f"CROSS_context_attn.{p}.{k}" for p in parts for k in ("weight", "bias")}


@pytest.mark.parametrize("reverse", [False, True])
def test_checkpoints_load_strictly(
    tmp_path: Path, models: dict[bool, OMaMa], reverse: bool
) -> None:
    state = models[reverse].state_dict()
    path = tmp_path / "matcher.pt"
    torch.save(state, path)
    loaded = load_matcher(path)
    assert loaded.reverse == reverse
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(CheckpointError, match=r"matcher\.pt.*expected; choose the checkpoint"):
        load_matcher(path, not reverse)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mlp.mlp.4.bias": None}, r"1 missing: mlp\.mlp\.4\.bias"),
        ({"extra": torch.zeros(1)}, "1 unexpected: extra"),
        ({"mlp.mlp.0.weight": torch.zeros(2, 2)}, r"misshapen: mlp\.mlp\.0\.weight \(file \(2, 2"),
        ({"pos_embed_T": torch.zeros(1, 16, 768)}, "misshapen: pos_embed_T"),
        ({"pos_embed_T": torch.tensor(1.0)}, "misshapen: pos_embed_T"),
        ({"pos_embed_T": None}, "missing: pos_embed_T"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, models: dict[bool, OMaMa], change: dict[str, Any], message: str
) -> None:
    state = {**models[False].state_dict(), **change}
    path = tmp_path / "other.safetensors"
    save_file({name: value for name, value in state.items() if value is not None}, path)
    with pytest.raises(CheckpointError, match=rf"other\.safetensors.*{message}"):
        load_matcher(path)


def blob(size: tuple[int, int], y: int, x: int, side: int = 60) -> np.ndarray:
    """A square mask, clipped at the image's border."""
    mask = np.zeros(size, bool)
    mask[max(y, 0) : y + side, max(x, 0) : x + side] = True
    return mask


EGO, EXO = (700, 700), (532, 952)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_descriptors_are_means_of_upsampled_features(data: st.DataObject) -> None:
    """Any image, any masks, also at the border and smaller than a cell."""
    h, w = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    view = torch.from_numpy(tokens(1, 14 * h, 14 * w))[:8]
    corners = st.tuples(st.integers(0, 14 * h - 1), st.integers(0, 14 * w - 1), st.integers(1, 80))
    drawn = data.draw(st.lists(corners, min_size=1, max_size=3))
    masks = torch.from_numpy(np.stack([blob((14 * h, 14 * w), *one) for one in drawn]))
    rows, columns = 14 * h // 4, 14 * w // 4
    up = F.interpolate(view[None], size=(rows, columns), mode="bilinear")[0]
    ys = torch.div(torch.arange(rows) * (14 * h), rows, rounding_mode="floor")
    xs = torch.div(torch.arange(columns) * (14 * w), columns, rounding_mode="floor")
    for mask, found in zip(masks, describe(view, masks), strict=True):
        inside = up[:, mask[ys][:, xs]]
        expected = inside.mean(dim=1) if inside.shape[1] else torch.zeros(8)
        y, x = np.nonzero(mask.numpy())
        around = up[
            :,
            max(y.min() - 100, 0) // 4 : min(y.max() + 101, 14 * h) // 4,
            max(x.min() - 100, 0) // 4 : min(x.max() + 101, 14 * w) // 4,
        ].mean(dim=(1, 2))
        assert torch.allclose(found, torch.cat((expected, around)), atol=1e-5)


def test_boxes_of_masks_at_the_border_and_of_empty_ones() -> None:
    masks = np.stack([blob((20, 30), 0, 0, 30), blob((20, 30), 19, 29), np.zeros((20, 30), bool)])
    boxes = torch.stack(bounding_boxes(torch.from_numpy(masks)), dim=1).tolist()
    assert boxes == [[0, 0, 30, 20], [29, 19, 30, 20], [0, 0, 0, 0]]


def test_empty_candidates_are_never_chosen_and_change_nothing(models: dict[bool, OMaMa]) -> None:
    query, target, asked = tokens(1, *EGO), tokens(2, *EXO), blob(EGO, 300, 300)
    shown = np.stack([blob(EXO, 100, 100), blob(EXO, 400, 800)])
    alone = match(models[False], query, asked, target, shown)
    among = match(models[False], query, asked, target, np.insert(shown, 1, False, axis=0))
    assert float(among.similarity[1]) == -1 and not among.candidate_embeddings[1].any()
    assert torch.allclose(among.similarity[[0, 2]], alone.similarity, atol=1e-6)
    assert among.best.tolist() == [[0, 2][int(alone.best)]]
    for masks in (shown[:0], np.zeros_like(shown)):
        nothing = match(models[False], query, asked, target, masks)
        assert nothing.best.tolist() == [-1] and nothing.confidence.tolist() == [0]
        assert nothing.similarity.shape == (len(masks),)
        assert nothing.candidate_embeddings.shape == (len(masks), 768)


def test_portrait_frames_keep_their_positions(models: dict[bool, OMaMa]) -> None:
    """A portrait image has as many patches as a landscape one; each keeps its place."""
    model = models[False]
    landscape = model.target_positions((38, 68)).unflatten(1, (38, 68))[0]
    portrait = model.target_positions((68, 38)).unflatten(1, (68, 38))[0]
    corners = [(0, 0), (0, -1), (-1, 0), (-1, -1)]
    for y, x in corners:
        alike = F.cosine_similarity(portrait[y, x], landscape, dim=-1)
        assert divmod(int(alike.argmax()), 68) == (y % 38, x % 68)
    turned = (952, 532)
    asked, candidates = blob(EGO, 300, 300), blob(turned, 700, 300)[None]
    found = match(model, tokens(1, *EGO), asked, tokens(2, *turned), candidates)
    assert torch.isfinite(found.similarity).all()


@pytest.mark.parametrize("size", [(140, 168), (98, 70), (14, 14), (420, 700)])
def test_any_size_of_image(models: dict[bool, OMaMa], size: tuple[int, int]) -> None:
    asked, candidates = blob(size, 5, 5, 8), blob(size, 0, 0)[None]
    found = match(models[True], tokens(1, *size), asked, tokens(2, *size), candidates)
    assert torch.isfinite(found.similarity).all() and float(found.query_embedding.norm()) > 0.99


def test_masks_of_another_size_are_sampled(models: dict[bool, OMaMa]) -> None:
    size = (140, 168)
    query, target = tokens(1, *size), tokens(2, *size)
    small = blob((70, 84), 20, 30, 20)
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    one = match(models[True], query, large, target, large[None])
    other = match(models[True], query, small, target, small[None])
    assert torch.equal(one.similarity, other.similarity)


def test_bad_arguments_are_named(models: dict[bool, OMaMa]) -> None:
    size = (56, 56)
    view, mask = tokens(1, *size), blob(size, 5, 5)
    for arguments, message in [
        ((view[:5], mask, view, mask[None]), r"query tokens \(5, 4, 4\) given, \(768, h, w\)"),
        ((view, mask, np.full_like(view, np.nan), mask[None]), "target tokens: .* not finite"),
        ((view, mask.astype(np.uint8), view, mask[None]), "query masks of torch.uint8"),
        ((view, np.zeros_like(mask), view, mask[None]), "0 pixels given, one mask"),
        ((view, mask, view, mask), "candidate masks|target masks"),
    ]:
        with pytest.raises(InputError, match=message):
            match(models[True], *arguments)


def test_an_invisible_object_teaches() -> None:
    """Where it is not in the view, the loss pushes every candidate below 0."""
    similarity = torch.tensor([0.4, -0.2, 0.1], requires_grad=True)
    contrastive_loss(similarity, None).backward()
    assert (similarity.grad > 0).all() and int(similarity.grad.argmax()) == 0
    assert float(contrastive_loss(torch.full((3,), -1.0), None)) < 1e-5
    assert float(contrastive_loss(torch.zeros(0), None)) == 0
    with pytest.raises(InputError, match="true candidate 3 given"):
        contrastive_loss(similarity, 3)


LINE = np.array([[0.0, 0], [1, 1], [2, 2], [5, 5], [9, 9]])


def test_centroids_on_a_line_are_neighbours_along_it() -> None:
    near = neighbours(LINE[[3, 0, 4, 2, 1]])
    assert np.flatnonzero(near[1]).tolist() == [3, 4]  # from 0, two steps up the line
    assert np.flatnonzero(near[3]).tolist() == [0, 1, 2, 4]
    assert near.shape == (5, 5) and not near.diagonal().any()


@given(
    arrays(np.float64, st.tuples(st.integers(0, 12), st.just(2)), elements=st.integers(0, 6)),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_any_centroids_have_neighbours(points: np.ndarray, order: int) -> None:
    """Also few of them, on one line, at one place."""
    near = neighbours(points, order)
    assert near.shape == (len(points), len(points)) and np.array_equal(near, near.T)
    if len(points) > 1:
        assert near.any(axis=1).all()
        distance = np.linalg.norm(points[:, None] - points, axis=-1)
        np.fill_diagonal(distance, np.inf)
        nearest = distance.min(axis=1)  # the nearest point is always a neighbour, or as near as one
        assert (np.where(near, distance, np.inf).min(axis=1) == nearest).all()


def test_hard_negatives_are_around_the_object() -> None:
    """An empty candidate among them shifts nothing, and the object itself is none of them."""
    size = (300, 300)
    grid = [(y, x) for y in range(0, 300, 50) for x in range(0, 300, 50)]
    candidates = np.stack([blob(size, y, x, 20) for y, x in grid])
    candidates = np.insert(candidates, [0, 3, 20], False, axis=0)
    places = {i: (int(y.min()), int(x.min())) for i, m in enumerate(candidates)
              for y, x in [np.nonzero(m)] if len(y)}  # fmt: skip
    truth = blob(size, 100, 100, 20)
    rng = np.random.default_rng(0)
    near = training_candidates(candidates, truth, 8, rng)
    assert len(set(near.tolist())) == 8
    for i in near:
        assert places[i] != (100, 100)
        assert max(abs(places[i][0] - 100), abs(places[i][1] - 100)) <= 100
    every = training_candidates(candidates, truth, 100, rng)
    assert sorted(every.tolist()) == [i for i in places if places[i] != (100, 100)]


def test_negatives_of_an_object_that_is_not_visible_and_of_nothing() -> None:
    size = (40, 40)
    candidates = np.stack([blob(size, 0, 0, 9), np.zeros(size, bool), blob(size, 20, 20, 9)])
    rng = np.random.default_rng(0)
    nowhere = np.zeros(size, bool)
    assert sorted(training_candidates(candidates, nowhere, 32, rng).tolist()) == [0, 2]
    assert training_candidates(candidates[:0], candidates[0], 32, rng).size == 0
    assert training_candidates(candidates[1:2], candidates[0], 32, rng).size == 0
    assert training_candidates(candidates[:1], candidates[0], 32, rng).size == 0

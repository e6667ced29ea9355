"""The second look at what was found, and its fit to what the tracker finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import lmeec_core as lm
from lmeec_core.compact.verification import EVIDENCE_SIZE, Verification, presence_evidence
from lmeec_core.training import presence
from lmeec_core.training.evaluate import Row, balanced_accuracy
from lmeec_core.training.store import SceneStore
from lmeec_core.training.tracking import Job

SIDE = 12  # 2g; masks have 24


def _views() -> tuple[Tensor, Tensor]:
    """Query: the object upper left. Target: a like thing lower right, an unlike one upper right."""
    ground, thing, unlike = torch.eye(4)[:3]
    query, target = ground.repeat(SIDE, SIDE, 1), ground.repeat(SIDE, SIDE, 1)
    query[2:6, 2:6], target[6:10, 6:10], target[2:6, 6:10] = thing, thing, unlike
    return query.permute(2, 0, 1)[None], target.permute(2, 0, 1)[None]


def _figures(rows: slice, columns: slice, high: float = 4.0) -> Tensor:
    """Of a find at these cells of the target view."""
    query, target = _views()
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 2:6, 2:6] = 1
    logits = torch.full((1, SIDE, SIDE), -6.0)
    logits[:, rows, columns] = high
    logits = logits.repeat_interleave(2, 1).repeat_interleave(2, 2)
    maps = torch.zeros(1, 3, SIDE, SIDE)
    maps[:, 0] = target[:, 1]  # cosine with the object's own vector
    numbers, prototype = (torch.tensor([0.5]), torch.tensor([1.0])), torch.eye(4)[1:2]
    return presence_evidence(logits, *numbers, maps, prototype, mask, query, target, 30.0)[0]


def test_a_right_find_is_the_best_place_of_both_descriptions_in_both_views() -> None:
    right = _figures(slice(6, 10), slice(6, 10))
    wrong = _figures(slice(2, 6), slice(6, 10))
    assert right.shape == (EVIDENCE_SIZE,) and right.isfinite().all()
    # sought in target, found in query, found in target, sought in query: inside, outside, mean
    expected = [1, 0, 1] * 4
    assert torch.allclose(right[:12], torch.tensor(expected).float(), atol=0.02)
    assert wrong[0] < 0.02 and wrong[1] > 0.98  # the sought object looks like another place
    assert wrong[3] < 0.02  # the found thing is not where the query mask is
    assert torch.allclose(wrong[6:12], right[6:12], atol=0.02)  # distinct in its view all the same


def test_sizes_and_borders() -> None:
    inside, cut = _figures(slice(6, 10), slice(6, 10)), _figures(slice(6, 12), slice(6, 10))
    assert inside[19] == pytest.approx(4 / SIDE, abs=1e-3)  # side of the query mask
    assert inside[20] == pytest.approx(4 / SIDE, rel=0.05)
    assert inside[21] == pytest.approx(0, abs=0.05) and cut[21] > 0.15
    assert inside[22] == 0 and inside[23] == pytest.approx(0, abs=0.02)
    assert cut[23] == pytest.approx(4 / 24, abs=0.02)


def test_nothing_found_and_empty_masks_give_numbers() -> None:
    nothing = _figures(slice(6, 10), slice(6, 10), high=-3.0)
    assert nothing.isfinite().all()
    assert nothing[3] > 0.9  # the likeliest place is described, and it is the right one
    zero = torch.zeros(2, SIDE, SIDE)
    empty = presence_evidence(
        torch.full((2, 24, 24), -1024.0), torch.zeros(2), torch.full((2,), -9.0),
        torch.zeros(2, 3, SIDE, SIDE), torch.zeros(2, 4), zero,
        *(torch.zeros(2, 4, SIDE, SIDE),) * 2, 30.0,
    )  # fmt: skip
    assert empty.isfinite().all()


def test_untrained_it_corrects_nothing() -> None:
    logit = torch.tensor([-1.5, 0.0, 2.0])
    assert torch.equal(Verification()(torch.randn(3, EVIDENCE_SIZE), logit), logit)


def _rows(count: int, seed: int) -> Tensor:
    """Figure 0 tells present from absent, the logit hardly does; few are absent."""
    random = torch.Generator().manual_seed(seed)
    present = (torch.rand(count, generator=random) < 0.8).float()
    seen = torch.randn(count, EVIDENCE_SIZE, generator=random)
    seen[:, 0] = 0.6 + 0.2 * present + 0.05 * seen[:, 0]
    logit = 0.3 * torch.randn(count, generator=random) + 0.2 * present + 1
    direction = (torch.rand(count, generator=random) < 0.5).float()
    return torch.cat((seen, torch.stack((logit, direction, present), dim=1)), dim=1)


def _accuracy(verification: Verification, rows: Tensor) -> float:
    with torch.no_grad():
        verdict = verification(rows[:, :EVIDENCE_SIZE], rows[:, EVIDENCE_SIZE])
    return balanced_accuracy(
        [
            Row(int(d), 100.0, 100.0 * float(p), 0.0, 0.0, float(v))
            for v, d, p in zip(verdict, *rows[:, -2:].T, strict=True)
        ]
    )


def test_the_fit_learns_what_the_figures_say_and_is_repeatable() -> None:
    train, test = _rows(3000, 0), _rows(1000, 1)
    one, again = Verification(), Verification()
    assert _accuracy(one, test) < 0.55  # everything is judged present
    presence._fit(one, train, seed=0)
    presence._fit(again, train, seed=0)
    assert _accuracy(one, test) > 0.93
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))


def test_the_verdict_depends_on_few_figures_within_their_bounds() -> None:
    one, rows = Verification(), _rows(3000, 0)
    presence._fit(one, rows, seed=0)
    seen, logit = rows[:200, :EVIDENCE_SIZE], rows[:200, EVIDENCE_SIZE]
    with torch.no_grad():
        before = one(seen, logit)
        wild = seen.clone()
        wild[:, [i for i in range(EVIDENCE_SIZE) if i not in presence.FIGURES]] = 1e4
        assert torch.equal(one(wild, logit), before)
        for column in presence.FIGURES:
            low, high = (torch.quantile(rows[:, column], q) for q in (0.005, 0.995))
            for far, bound in ((-1e4, low), (1e4, high)):
                wild, edge = seen.clone(), seen.clone()
                wild[:, column], edge[:, column] = far, bound
                torch.testing.assert_close(one(wild, logit), one(edge, logit), atol=0.05, rtol=0.01)


def test_the_verdict_is_fitted_to_full_banks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each camera's eight frames the last two, after six have filled the banks."""

    class Answer:
        query, target_area, counts = 1, 1, True

    model = lm.build_model(lm.preset("nano").model_copy(update={"image_size": 64}))

    def track(model: lm.LMEEC, job: Job) -> Iterator[list[Answer]]:
        for step in range(3 * job.frames):
            model.matching.verification(torch.full((1, EVIDENCE_SIZE), float(step)), torch.ones(1))
            yield [Answer()]

    monkeypatch.setattr(presence, "track_scene", track)
    rows = presence._observe(model, Job(0, tmp_path, 8, None, tmp_path, "cpu", model.config))
    assert rows[:, 0].tolist() == [6, 7, 14, 15, 22, 23]


def test_scenes_that_never_fill_the_banks_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "train_0.npy", np.zeros((6, 2, 16, 16, 4), np.uint8))
    store = SceneStore(tmp_path, 1)
    store.refresh()
    model = lm.build_model(lm.preset("nano").model_copy(update={"image_size": 64}))
    with pytest.raises(lm.InputError, match="6 frames given, more than 6 without a jump"):
        presence.fit_presence(model, store, 1)


def test_directions_and_absence_count_alike() -> None:
    direction, present = torch.tensor([0, 0, 0, 0, 1, 1.0]), torch.tensor([1, 1, 1, 0, 1, 0.0])
    weight = presence._weights(direction, present)
    assert float(weight.mean()) == pytest.approx(1)
    assert torch.allclose(weight, torch.tensor([1, 1, 1, 3, 3, 3]) * 0.5)


def test_only_the_verification_changes(tmp_path: Path) -> None:
    """On random scenes, through the tracker in processes of their own."""
    random = np.random.default_rng(0)
    for number in range(3):
        labels = np.kron(random.integers(0, 3, (7, 2, 4, 4)), np.ones((16, 16), int))
        colours = random.integers(0, 256, (4, 3))
        packed = np.concatenate((colours[labels], labels[..., None]), axis=-1)
        np.save(tmp_path / f"train_{number}.npy", packed.astype(np.uint8))
    store = SceneStore(tmp_path, 3)
    assert store.refresh() == 3
    torch.manual_seed(0)
    model = lm.build_model(lm.preset("nano").model_copy(update={"image_size": 64}))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = presence.fit_presence(model, store, 3)
    assert report["scenes"] == 3 and report["correspondences"] > 8
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed and all(name.startswith("matching.verification.") for name in changed)
    assert all(value.isfinite().all() for value in model.parameters())

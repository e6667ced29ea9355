"""The benchmark's measures against its own numbers, and scores of whole result files."""

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from lmeec_core.evaluation import Scores, benchmark_size, mask_metrics, score_pair
from lmeec_core.takes import Results, Take, TakeWriter, decode_mask

CASES = json.loads((Path(__file__).parents[1] / "data" / "golden" / "metrics.json").read_text())


@pytest.mark.parametrize("index", range(len(CASES)))
def test_measures_equal_the_benchmarks(index: int) -> None:
    case = CASES[index]
    found = mask_metrics(decode_mask(case["pred"]), decode_mask(case["gt"]))
    assert found.iou == pytest.approx(case["iou"], abs=1e-9)
    assert found.contour == pytest.approx(case["contour"], abs=1e-9)
    assert found.location == pytest.approx(case["location_480"], abs=1e-9)
    assert found.existence == case["existence"]


def test_masks_of_any_number_type_and_another_location_size() -> None:
    case = CASES[0]
    predicted, truth = decode_mask(case["pred"]), decode_mask(case["gt"])
    same = mask_metrics(predicted.astype(np.uint8) * 255, truth.astype(np.float32))
    assert same == mask_metrics(predicted, truth)
    half = mask_metrics(predicted, truth, location_size=(960, 960))
    assert half.location == pytest.approx(same.location / 2)


def test_both_empty_and_one_empty() -> None:
    empty = np.zeros((480, 360), bool)
    full = ~empty
    both = mask_metrics(empty, empty)
    assert (both.iou, both.contour, both.location, both.existence) == (1.0, 1.0, 0.0, True)
    one = mask_metrics(empty, full)
    assert (one.iou, one.existence) == (0.0, False)


@pytest.mark.parametrize("shapes", [((4, 4), (4, 5)), ((4, 4, 1), (4, 4, 1)), ((0, 4), (0, 4))])
def test_wrong_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="shape"):
        mask_metrics(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_at_least_200_pairs_per_second() -> None:
    pairs = [
        (decode_mask(case["pred"]), decode_mask(case["gt"]))
        for case in CASES
        if case["gt"]["size"] == [480, 480]
    ]
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        best = float("inf")
        for _ in range(5):  # the best of five: other processes may have the core
            start = time.process_time()
            for predicted, truth in pairs:
                mask_metrics(predicted, truth)
            best = min(best, (time.process_time() - start) / len(pairs))
    finally:
        cv2.setNumThreads(threads)
    assert best < 1 / 200


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((2160, 3840), (270, 480)),
        ((1408, 1408), (480, 480)),
        ((3840, 2160), (480, 270)),
        ((120, 200), (288, 480)),
        ((1000, 1501), (319, 480)),  # truncated, not rounded
        ((98, 98), (479, 479)),  # 98 x (1 / 98 x 480) is a little less than 480
    ],
)
def test_benchmark_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert benchmark_size(*size) == expected


def square(left: int) -> np.ndarray:
    mask = np.zeros((48, 64), bool)
    mask[10:30, left : left + 20] = True
    return mask


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Take, Results]:
    """Five frames: exact, half overlapping, absent and said so, present and missed, no answer."""
    image = np.zeros((48, 64, 3), np.uint8)
    with TakeWriter(tmp_path / "take") as writer:
        for frame in range(0, 180, 30):
            for camera in ("aria", "cam"):
                writer.image(camera, frame, image)
        for frame in (0, 30, 60, 90, 120):
            writer.mask("cup", "aria", frame, square(0))
        for frame in (0, 30, 90, 120, 150):
            writer.mask("cup", "cam", frame, square(10))
    results = Results("ego-exo")
    empty = np.zeros((360, 480), bool)
    big = {left: cv2.resize(square(left) * 1.0, (480, 360)) > 0.5 for left in (10, 20)}
    answers = ((0, big[10], 0.9), (30, big[20], 0.8), (60, empty, 0.1), (90, empty, 0.5))
    for frame, mask, confidence in answers:
        results.add("take", "cup", "aria", "cam", frame, mask, confidence)
    return Take.open(tmp_path / "take"), results


def test_scores_of_a_result_file(scored: tuple[Take, Results]) -> None:
    take, results = scored
    scores = score_pair(results, take, "cup", "aria", "cam")
    assert scores.frames == 5  # 150 has no query mask
    assert scores.missing == 1
    assert scores.existing == [True, True, False, True, True]
    assert scores.predicted == [True, True, False, False, False]  # 0.5 is not above 0.5
    assert scores.ious == pytest.approx([1, 1 / 3, 0, 0], abs=0.02)
    assert scores.association_accuracy == 0.25
    assert scores.existence_accuracy == 0.6
    assert scores.existence_balanced_accuracy == pytest.approx(
        balanced_accuracy_score(scores.existing, scores.predicted)
    )
    assert scores.summary()["protocol"] == "official"
    assert scores.location_error > 0


def test_scores_add_up_as_a_micro_average(scored: tuple[Take, Results]) -> None:
    take, results = scored
    total = Scores()
    assert total.summary()["iou"] is None
    part = score_pair(results, take, "cup", "aria", "cam")
    total.add(part)
    total.add(part)
    assert total.frames == 10 and total.missing == 2
    assert total.iou == pytest.approx(part.iou)


def test_scores_of_a_truth_that_is_null(tmp_path: Path) -> None:
    with TakeWriter(tmp_path / "take") as writer:
        for camera in ("aria", "cam"):
            writer.image(camera, 0, np.zeros((8, 8, 3), np.uint8))
        writer.mask("cup", "aria", 0, np.ones((8, 8)))
        writer.mask("cup", "cam", 0, None)
    scores = score_pair(Results("ego-exo"), Take.open(tmp_path / "take"), "cup", "aria", "cam")
    assert scores.existing == [True] and scores.ious == []

"""Output of `lmeec demo`: result file, overlays, report and table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmeec_core import overlay
from lmeec_core.bags.bag import BagReader
from lmeec_core.bags.take_bags import RecordingInfo, frame_of
from lmeec_core.evaluation import Scores, benchmark_size, iou, score_pair
from lmeec_core.files import write_text
from lmeec_core.prompts import PlacedPrompt
from lmeec_core.takes import Results, Take, decode_mask, encode_mask, is_ego, resize_mask
from lmeec_ros.io.messages import MAX_LABEL, LabelTable, masks_from_array
from lmeec_ros.io.synchronizer import stamp_of

if TYPE_CHECKING:
    from lmeec_ros.tools.demo_run import Played

SHEET_ROWS = 8
ROW_HEIGHT = 300
MEANINGLESS = (
    "The weights are random (seeded): there are no bundled weights for this preset and no "
    "checkpoint was given. The masks mean nothing; the demo only shows that the pipeline works."
)


@dataclass(frozen=True)
class NodeAnswer:
    """The node's result for one object in one target image.

    Attributes:
        rle: the mask at the size of the target image, COCO run lengths; empty if not visible.
        presence: probability that the object is in the image.
        visible: whether the node reported it as visible.
    """

    rle: dict[str, Any]
    presence: float
    visible: bool


Answers = dict[tuple[int, str, str], NodeAnswer]
"""(frame, target, object) to answer."""


@dataclass
class DemoRun:
    """One run of the demo.

    Attributes:
        take, info: the take, and the bag that was made from it.
        played: messages sent and received.
        expected: stamps (ns) of which every camera has an image.
        preset, method: network and method.
        trained: whether the weights are trained rather than random.
        simulated: whether the take is simulated.
        prompts: prompts that marked the objects; empty if query masks were sent on every frame.
    """

    take: Take
    info: RecordingInfo
    played: Played
    expected: tuple[int, ...]
    preset: str
    trained: bool
    simulated: bool
    method: str = "lmeec"
    prompts: Sequence[PlacedPrompt] = ()


def finish(out: Path, run: DemoRun, console: Console) -> int:
    """Write all results to the folder `out`, print the table, and return the exit code."""
    answers, processing = read_answers(out / "masks_bag", run.info)
    results = results_of(run, answers)
    results.write(out / "masks.json")
    report = measure(run, answers, processing, results)
    report_path = out / "report.json"
    write_text(report_path, json.dumps(report, indent=1, ensure_ascii=False))
    pictures = list(_pictures(out, run, answers)) if answers else []
    _print_table(report, run, console)
    for path in (out / "masks_bag", out / "masks.json", *pictures, report_path, out / "node.log"):
        console.print(f"  {path}", highlight=False)
    return _verdict(report, out, console)


def read_answers(bag_path: Path, info: RecordingInfo) -> tuple[Answers, list[float]]:
    """Return the masks in a recorded bag, and the processing times (s) reported by the node."""
    answers: Answers = {}
    processing: list[float] = []
    with BagReader(bag_path) as bag:
        topics = [t.name for t in bag.topics.values() if t.name.endswith("/masks") and t.count]
        for topic, _, data in bag.messages(topics) if topics else ():
            message = bag.decode(topic, data)
            stamp = stamp_of(message)
            processing.append(message.processing_time.sec + message.processing_time.nanosec / 1e9)
            masks = masks_from_array(message, LabelTable(), max_objects=MAX_LABEL)
            for entry in message.masks:
                mask = masks[entry.object_id]
                if mask is None:
                    mask = np.zeros((message.height, message.width), dtype=bool)
                answers[frame_of(stamp), message.target_camera, entry.object_id] = NodeAnswer(
                    encode_mask(mask), float(entry.presence), bool(entry.visible)
                )
    return answers, processing


def results_of(run: DemoRun, answers: Answers) -> Results:
    """Return a result file with the masks at the benchmark's size and the take's camera names."""
    info = run.info
    query = info.cameras[info.query]
    results = Results("ego-exo" if is_ego(query) else "exo-ego")
    results.set_frames(run.take.name, info.frames)
    for (frame, target, name), answer in sorted(answers.items()):
        if target == info.query:
            continue
        mask = decode_mask(answer.rle)
        small = resize_mask(mask, benchmark_size(*mask.shape))
        results.add(run.take.name, name, query, info.cameras[target], frame, small, answer.presence)
    return results


def measure(
    run: DemoRun, answers: Answers, processing: list[float], results: Results
) -> dict[str, Any]:
    """Return all figures of the run, for report.json and the table."""
    played, info = run.played, run.info
    latency = [
        t - played.sent[stamp] for (_, stamp), t in played.arrived.items() if stamp in played.sent
    ]
    pairs = len(run.expected) * len(info.views)
    scores, baseline = Scores(), []
    for name in info.objects.values():
        for target in info.targets:
            query, camera = info.cameras[info.query], info.cameras[target]
            scores.add(score_pair(results, run.take, name, query, camera))
            baseline += copied_mask_ious(run.take, name, query, camera)
    drops = played.drops(info.query, len(info.frames) - len(run.expected))
    arrived = len([key for key in played.arrived if key[1] in run.expected])
    return {
        "take": run.take.name,
        "simulated": run.simulated,
        "method": run.method,
        "preset": run.preset,
        "weights_mean_something": run.trained,
        "frames_in": len(info.frames),
        "images_in": sum(
            len(set(run.take.frames(c)) & set(info.frames)) for c in info.cameras.values()
        ),
        "sets": len(run.expected),
        "pairs": pairs,
        "mask_messages": len(played.arrived),
        "mask_messages_repeated": played.repeated,
        "objects_answered": len(answers),
        "objects_visible": sum(answer.visible for answer in answers.values()),
        "pairs_missing": pairs - arrived,
        "drops": drops,
        "sets_failed": played.failed,
        "pairs_unaccounted": max(0, pairs - arrived - sum(drops.values()) * len(info.views)),
        "seconds": round(played.seconds, 3),
        "latency_ms": _percentiles(latency),
        "processing_ms": _percentiles(processing),
        "scores": scores.summary(),
        "iou_of_copied_query_mask": float(np.mean(baseline)) if baseline else None,
        "prompts": len(run.prompts),
        "query_view_iou": _query_view_iou(run, answers),
    }


def _query_view_iou(run: DemoRun, answers: Answers) -> float | None:
    """Mean IoU of the masks tracked in the query view, over all frames with a true mask from each
    object's first prompt onwards; None if query masks were given."""
    query, values = run.info.cameras[run.info.query], []
    starts: dict[str, int] = {}
    for one in run.prompts:
        starts.setdefault(one.prompt.object_id, one.frame or 0)
    for name, start in starts.items():
        for frame in run.take.mask_frames(name, query):
            truth = run.take.mask(name, query, frame) if frame >= start else None
            if truth is not None and truth.any():
                answer = answers.get((frame, run.info.query, name))
                found = decode_mask(answer.rle) if answer else np.zeros(truth.shape, bool)
                values.append(iou(resize_mask(found, truth.shape), truth))
    return float(np.mean(values)) if values else None


def copied_mask_ious(take: Take, name: str, query: str, target: str) -> list[float]:
    """Return the IoU of the unchanged query mask with the true target mask, a trivial baseline.

    One value for every frame that has both masks.
    """
    values = []
    for frame in take.mask_frames(name, query):
        mask, truth = take.mask(name, query, frame), take.mask(name, target, frame)
        if mask is not None and truth is not None:
            size = benchmark_size(*truth.shape)
            values.append(iou(resize_mask(mask, size), resize_mask(truth, size)))
    return values


def _percentiles(seconds: list[float]) -> dict[str, float | None]:
    if not seconds:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(np.asarray(seconds) * 1000, [50, 95])
    return {"p50": round(float(p50), 2), "p95": round(float(p95), 2)}


def _pictures(out: Path, run: DemoRun, answers: Answers) -> Iterator[Path]:
    frames = sorted({frame for frame, _, _ in answers})
    picked = [
        frames[i] for i in np.linspace(0, len(frames) - 1, min(SHEET_ROWS, len(frames))).astype(int)
    ]
    title = [
        f"{run.take.name}: query {run.info.query} (left), masks found by "
        f"{run.method}, preset {run.preset}; white outline: truth",
        *(["each object was marked once, with the click shown"] if run.prompts else []),
    ]
    if not run.trained:
        title.append("RANDOM WEIGHTS: the masks mean nothing")
    rows = [draw_frame(run, answers, frame) for frame in picked]
    columns = 2 if rows[0].shape[1] < 1300 else 1
    overlay.write_png(out / "contact_sheet.png", overlay.contact_sheet(rows, columns, title))
    yield out / "contact_sheet.png"
    step = float(np.median(np.diff(frames))) if len(frames) > 1 else 1.0
    rate = min(30.0, max(4.0, 30.0 / step))
    video = (draw_frame(run, answers, frame) for frame in frames)
    yield overlay.write_video(out / "overlay.mp4", video, rate)


def draw_frame(run: DemoRun, answers: Answers, frame: int) -> overlay.Image:
    """Draw the query image with its masks, and each target image with masks found and truth."""
    info, take = run.info, run.take
    names = list(info.objects.values())
    colours = {name: overlay.colour(i) for i, name in enumerate(names)}
    query = info.cameras[info.query]
    image = overlay.draw_masks(
        take.image(query, frame), _query_masks(run, answers, frame), colours=colours
    )
    for one in run.prompts:
        if one.frame == frame:
            shade = colours[one.prompt.object_id]
            image = overlay.draw_marks(image, one.prompt.points, one.prompt.box, shade)
    shown = [f"{info.query} frame {frame}", *names[:8]]
    shades = [overlay.TRUTH, *colours.values()]
    panels = [overlay.caption(_tall(image), shown, shades)]
    for target in info.targets:
        camera = info.cameras[target]
        found: dict[str, NDArray[np.bool_] | None] = {}
        truth = {name: take.mask(name, camera, frame) for name in names}
        lines = [target]
        for name in names:
            answer = answers.get((frame, target, name))
            found[name] = decode_mask(answer.rle) if answer and answer.visible else None
            lines.append(_line(found[name], truth[name], answer))
        picture = overlay.draw_masks(take.image(camera, frame), found, colours=colours, truth=truth)
        panels.append(overlay.caption(_tall(picture), lines[:9], shades))
    return overlay.side_by_side(panels, ROW_HEIGHT)


def _query_masks(run: DemoRun, answers: Answers, frame: int) -> dict[str, NDArray[np.bool_] | None]:
    """The masks in the query view: tracked from prompts, or given."""
    names, query = run.info.objects.values(), run.info.query
    if not run.prompts:
        return {name: run.take.mask(name, run.info.cameras[query], frame) for name in names}
    found = {name: answers.get((frame, query, name)) for name in names}
    return {
        name: decode_mask(one.rle) if one is not None and one.visible else None
        for name, one in found.items()
    }


def _tall(image: overlay.Image) -> overlay.Image:
    width = max(2, round(image.shape[1] * ROW_HEIGHT / image.shape[0]))
    return overlay.fit(image, ROW_HEIGHT, width)


def _line(
    found: NDArray[np.bool_] | None, truth: NDArray[np.bool_] | None, answer: NodeAnswer | None
) -> str:
    if answer is None:
        return "no answer"
    text = f"p {answer.presence:.2f}"
    if truth is None:
        return f"{text}, absent in truth"
    mask = np.zeros(truth.shape, bool) if found is None else resize_mask(found, truth.shape)
    return f"{text}, IoU {iou(mask, truth):.2f}"


def _print_table(report: dict[str, Any], run: DemoRun, console: Console) -> None:
    def number(value: float | None, form: str = ".3f") -> str:
        return "-" if value is None else format(value, form)

    scores, latency = report["scores"], report["latency_ms"]
    drops = " ".join(f"{n} ({key})" for key, n in report["drops"].items()) or "0"
    table = Table(title="demo", show_header=False)
    views = len(run.info.views)
    rows = [
        ("frames in", f"{report['frames_in']} ({report['images_in']} images)"),
        ("pairs", f"{report['pairs']} ({report['sets']} sets x {views} views)"),
        ("mask messages out", str(report["mask_messages"])),
        ("object results, visible", f"{report['objects_answered']}, {report['objects_visible']}"),
        ("sets dropped, failed", f"{drops}, {report['sets_failed']}"),
        ("pairs missing, unaccounted", f"{report['pairs_missing']}, {report['pairs_unaccounted']}"),
        (
            "latency p50 / p95",
            f"{number(latency['p50'], '.1f')} / {number(latency['p95'], '.1f')} ms",
        ),
        (
            "  of which in the network",
            f"{number(report['processing_ms']['p50'], '.1f')} / "
            f"{number(report['processing_ms']['p95'], '.1f')} ms",
        ),
        (f"IoU (protocol {scores['protocol']})", number(scores["iou"])),
        ("  frames without a result (IoU 0)", f"{scores['frames_missing']} of {scores['frames']}"),
        ("  query mask copied unchanged", number(report["iou_of_copied_query_mask"])),
        *(
            [("IoU in the query view, from prompts", number(report["query_view_iou"]))]
            if run.prompts
            else []
        ),
        ("location error", number(scores["location_error"])),
        ("contour accuracy", number(scores["contour_accuracy"])),
        ("existence balanced accuracy", number(scores["existence_balanced_accuracy"])),
    ]
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    if report["simulated"]:
        console.print("The take is simulated: the scores say nothing about real footage.")
    if not run.trained:
        console.print(f"[bold yellow]{MEANINGLESS}[/]")


def _verdict(report: dict[str, Any], out: Path, console: Console) -> int:
    """Return 0 if masks arrived and every missing pair was counted as dropped; else print why."""
    problem = ""
    if not report["mask_messages"]:
        problem = "no masks were received"
    elif report["pairs_unaccounted"]:
        problem = f"{report['pairs_unaccounted']} pairs have no masks and were not counted as drops"
    if not problem:
        return 0
    log = out / "node.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]
    console.print(f"[bold red]{problem}[/]; the end of {log}:")
    console.print(escape("\n".join(lines)), highlight=False)
    return 1

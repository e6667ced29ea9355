"""`lmeec demo`: play a recording to the installed node over DDS, and collect its masks.

The node runs in a separate process; this process publishes the recording and collects the masks.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.console import Console
from rich.markup import escape

import lmeec_core as lm
from lmeec_core.bags import take_bags
from lmeec_core.bags.take_bags import RecordingInfo, bag_from_take, stamp_of_frame
from lmeec_core.errors import InputError
from lmeec_core.files import write_text
from lmeec_core.methods import has_setting, method_name
from lmeec_core.prompts import PlacedPrompt, read_prompts
from lmeec_core.takes import Take
from lmeec_ros.tools.node_process import NodeError, profile_environment, shared

SEED = 0


@dataclass(frozen=True)
class DemoOptions:
    """Options of `lmeec demo`; see its --help.

    ``take`` None is the sample take, ``prompts`` None the prompts in its folder (if any), ``rate``
    0 lock-step, ``max_objects`` 0 all objects.
    """

    take: Path | None = None
    out: Path = Path("out/demo")
    method: str = "lmeec"
    preset: str = "nano"
    checkpoint: Path | None = None
    query: str = "ego"
    targets: tuple[str, ...] = ()
    prompts: Path | None = None
    masks: bool = False
    objects: tuple[str, ...] = ()
    max_objects: int = 4
    rate: float = 0.0
    device: str = "auto"
    raw: bool = False


def run(options: DemoOptions, console: Console) -> int:
    """Run the demo; return the exit code.

    0 means that masks were received, the node counted every pair without masks as dropped, and
    every prompt was used.

    Raises:
        NodeError, TakeError, BagError, CheckpointError: if the demo could not be run.
    """
    from lmeec_ros.tools import demo_report
    from lmeec_ros.tools.demo_run import through_node

    lm.preset(options.preset)  # raises an error for an unknown name
    method = method_name(options.method)
    take = Take.open(options.take or sample_take())
    out = options.out
    objects, prompts, left = marks_of(take, options)
    for one in left:
        console.print(f"[yellow]left out[/] {escape(str(one))}: not for the query camera")
    _clear(out)
    info = bag_from_take(
        take,
        out / "input_bag",
        query=options.query,
        targets=options.targets or None,
        objects=objects,
        prompts=prompts,
        raw=options.raw,
        overwrite=True,
    )
    weights = options.checkpoint is not None or lm.bundled_weights(options.preset) is not None
    trained = weights or not has_setting(method, "checkpoint")
    parameters = out / "parameters.yaml"
    write_parameters(parameters, node_parameters(info, options, trained))
    expected = expected_pairs(take, info)
    pace = f"played at {options.rate:g} x speed" if options.rate else "played in lock-step"
    console.print(
        f"take [bold]{escape(take.name)}[/]: {len(info.frames)} frames, query {info.query}, "
        f"targets {', '.join(info.targets)}, {len(info.objects)} of {len(take.objects)} objects, "
        f"{f'{len(prompts)} prompts' if prompts else 'a query mask on every frame'}; "
        f"method {method}, preset {options.preset}; {pace}"
    )
    settle_environment()
    played = through_node(out, info, parameters, expected, options.rate, console)
    simulated = options.take is None or bool(take.annotation.get("simulated", False))
    outcome = demo_report.DemoRun(
        take, info, played, expected, options.preset, trained, simulated, method, prompts
    )
    return demo_report.finish(out, outcome, console) or (1 if left else 0)


def sample_take() -> Path:
    """Return the folder of the sample take, as installed by colcon or in the source tree.

    Raises:
        NodeError: if it is missing (pip installs the package without it).
    """
    places = shared("sample_take", "test/data/sample_take")
    for path in places:
        if (path / "annotation.json").is_file():
            return path
    tried = ", ".join(str(place) for place in places)
    raise NodeError(
        f"the sample take was not found (tried {tried}); build this package with colcon and source "
        "its install/setup.bash, or give your own take with --take"
    )


class Marks(NamedTuple):
    """The objects of a demo, and the prompts that mark them."""

    objects: tuple[str, ...]
    prompts: list[PlacedPrompt]
    """Prompts in the query camera; empty if the take's masks are used instead."""
    left: list[PlacedPrompt]
    """Prompts for these objects in other cameras, which a demo does not use."""


def marks_of(take: Take, options: DemoOptions) -> Marks:
    """Return the objects and their prompts, from the file given or from the take's folder.

    Raises:
        InputError: if options exclude each other, or the file cannot be read, is for another
            recording, or has no prompt for an object.
    """
    if options.masks and options.prompts is not None:
        raise InputError(f"--masks and --prompts {options.prompts} given, one of them expected")
    path, most = options.prompts or take.path / "prompts.json", options.max_objects or None
    masks = Marks(options.objects or take.objects[:most], [], [])
    if options.masks or (options.prompts is None and not path.is_file()):
        return masks
    given, query = read_prompts(path), take_bags.camera_of(take, options.query)
    if given.recording not in (None, take.name):
        raise InputError(
            f"{path}: prompts for the recording {given.recording!r} given, {take.name!r} expected"
        )
    in_query = [one for one in given.prompts if one.camera == query]
    if options.prompts is None and not in_query:
        return masks  # the prompts are for another query camera
    objects = options.objects or given.objects[:most]
    unmarked = [name for name in objects if name not in {one.prompt.object_id for one in in_query}]
    if unmarked or not objects:
        raise InputError(
            f"{path}: no prompt for {', '.join(unmarked) or 'any object'} in camera {query}; mark "
            f"them (`lmeec mark {take.path}`), choose objects with --object, or use --masks"
        )
    theirs = [one for one in given.prompts if one.prompt.object_id in objects]
    used = [one for one in theirs if one.camera == query]
    return Marks(objects, used, [one for one in theirs if one not in used])


def expected_pairs(take: Take, info: RecordingInfo) -> tuple[int, ...]:
    """Return the stamps (ns) of frames that all cameras have, which yield masks in every target."""
    return tuple(stamp_of_frame(frame) for frame in take.common_frames(*info.cameras.values()))


def node_parameters(info: RecordingInfo, options: DemoOptions, trained: bool) -> dict[str, Any]:
    """Return the node's parameters for a bag made from a take.

    Args:
        info: description of the bag.
        options: options of the demo.
        trained: whether trained weights are used; otherwise random ones from a fixed seed.
    """
    checkpoint = options.checkpoint.resolve() if options.checkpoint else ""
    return {
        **take_bags.node_parameters(info),
        "method": options.method,
        **_marking_network(info, options.method),
        "model": {
            "preset": options.preset,
            "checkpoint": str(checkpoint),
            "device": options.device,
            "seed": -1 if trained else SEED,
        },
        "pairing": {"partial": False},  # only sets with an image of every camera are counted
        # In lock-step the inputs are silent while the node is working.
        "silence_warning": 0.0 if options.rate == 0 else 5.0,
    }


def _marking_network(info: RecordingInfo, method: str) -> dict[str, Any]:
    """Parameters of the network that tracks marked objects, for methods without a network."""
    needed = bool(info.prompt_topic) and not has_setting(method, "preset")
    return {"prompts": {"preset": DemoOptions.preset}} if needed else {}


def write_parameters(path: Path, parameters: dict[str, Any]) -> None:
    """Write a node's parameter file."""
    content = {"/**": {"ros__parameters": parameters}}
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def settle_environment() -> None:
    """Set ROS's transport settings for this process and the node, unless the user has set them.

    A separate domain, limited to this host, keeps out the nodes of other robots.
    """
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.update(profile_environment(None, os.environ))


RESULTS = (
    "input_bag",
    "masks_bag",
    "masks.json",
    "report.json",
    "contact_sheet.png",
    "overlay.mp4",
    "overlay.gif",
    "parameters.yaml",
    "node.log",
)


def _clear(out: Path) -> None:
    """Remove the results of an earlier run, so that they cannot be mistaken for new ones."""
    out.mkdir(parents=True, exist_ok=True)
    for name in RESULTS:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

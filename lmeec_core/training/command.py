"""`lmeec train`: training from the command line, its options from a YAML file."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import typer
import yaml
from pydantic import BaseModel, ConfigDict, Field

from lmeec_core.config import shortened, validated
from lmeec_core.errors import InputError
from lmeec_core.files import write_text
from lmeec_core.training.rendering import SIZE
from lmeec_core.training.take_settings import TakeTrainConfig

CONFIGS = Path(__file__).parent / "configs"
SETTINGS = "train.yaml"
"""The settings of a run, in its folder."""


class TrainConfig(BaseModel):
    """Settings of a run on simulated scenes; configs/nano_sim.yaml explains each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    may_change: ClassVar[frozenset[str]] = frozenset(
        {"device", "workers", "render", "keep", "session_minutes", "evaluate_every",
         "report_every", "tensorboard"}
    )  # fmt: skip
    """Settings that a resumed run may have otherwise; the rest decides what is learnt."""

    recipe: Literal["simulation"] = "simulation"
    minutes: float = Field(gt=0)
    stages: Literal["auto", "gpu", "gpu_more", "cpu", "cpu_more"] = "auto"
    start: str | None = None
    seed: int = Field(0, ge=0)
    device: str = "auto"
    scenes: int = Field(12_000, ge=1)
    frames: int = Field(8, ge=4, multiple_of=4)
    size: int = Field(SIZE, ge=64, le=1024)
    start_at: int = Field(150, ge=1)
    keep: int = Field(4_000, ge=0)
    val_scenes: int = Field(24, ge=1)
    presence_scenes: int = Field(400, ge=0)
    test_scenes: int = Field(60, ge=1)
    workers: int | None = Field(None, ge=1)
    render: bool = True
    session_minutes: float | None = Field(None, gt=0)
    evaluate_every: float = Field(3.0, gt=0)
    report_every: float = Field(10.0, ge=0)
    tensorboard: bool = True

    def arguments(self, work: Path, out: Path) -> argparse.Namespace:
        """The same for :func:`lmeec_core.training.nano.work`."""
        from lmeec_core.training.nano import parse

        args = parse(["--work", str(work), "--out", str(out)])
        for name, value in self.model_dump(exclude={"recipe", "render", "tensorboard"}).items():
            if value is not None:
                setattr(args, name, value)
        if not self.render:
            args.no_render, args.keep = True, None  # scenes that were brought are not deleted
        return args


RECIPES: dict[str, type[TrainConfig] | type[TakeTrainConfig]] = {
    "simulation": TrainConfig,
    "takes": TakeTrainConfig,
}
"""Settings by a file's ``recipe``; without one it is of the first."""


def find_config(name: str) -> Path:
    """The file of that name, or the one that the package brings.

    Raises:
        InputError: neither is there; names those that the package brings.
    """
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(p.name for p in CONFIGS.glob("*.yaml")))
    raise InputError(f"--config {name}: no such file; the package brings {known}")


def read_config(path: Path, changes: Sequence[str] = ()) -> TrainConfig | TakeTrainConfig:
    """Read and check settings, of the class that the file's ``recipe`` names.

    Args:
        path: a YAML file.
        changes: ``name=value`` each, the value in YAML; ``a.b=value`` sets b inside a.

    Raises:
        InputError: not YAML, an unknown name or a wrong value; says which.
    """
    content = _read_yaml(path)
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"--set {change}: expected name=value")
        _set(content, name.strip(), _parse_yaml(value, f"--set {change}"))
    recipe = content.get("recipe", "simulation")
    if not isinstance(recipe, str) or recipe not in RECIPES:
        known = ", ".join(sorted(RECIPES))
        raise InputError(f"{path}: recipe: {shortened(recipe)} given, one of {known} expected")
    return validated(RECIPES[recipe], content, str(path))


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: the 35th of May
        raise InputError(f"{where}: not YAML: {error}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text in UTF-8: {error}") from error
    content = _parse_yaml(text, str(path))
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InputError(f"{path}: a mapping of names to values was expected")
    return content


def _set(content: dict[str, Any], name: str, value: Any) -> None:
    """Set a value, the name of a value inside another with dots."""
    *outer, last = name.split(".")
    for part in outer:
        inner = content.get(part)
        content[part] = dict(inner) if isinstance(inner, dict) else {}
        content = content[part]
    content[last] = value


def remember(config: TrainConfig | TakeTrainConfig, work: Path) -> None:
    """Write the settings into the run's folder, or compare them with those it began with.

    Raises:
        InputError: the folder's run began with settings that may not change; names them.
    """
    path, now = work / SETTINGS, config.model_dump()
    if path.is_file():
        before = _read_yaml(path)
        other = [k for k, v in now.items() if k not in config.may_change and before.get(k) != v]
        if other:
            told = ", ".join(
                f"{k} {shortened(before.get(k))} (now {shortened(now[k])})" for k in other
            )
            raise InputError(
                f"{work} holds a run with other settings: {told}; give the same to go on with it, "
                "or another folder"
            )
    write_text(path, yaml.safe_dump(now, sort_keys=False))


def train_command(
    work: Annotated[
        Path, typer.Argument(help="Folder of the run: scenes, checkpoint, TensorBoard, log.")
    ],
    config: Annotated[
        str, typer.Option(help="YAML file, or the name of one that the package brings.")
    ] = "nano_sim.yaml",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another value for this run, name=value, may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the weights.", show_default="WORK/out")
    ] = None,
) -> None:
    """Train a network: the small one on simulated scenes, or any preset on takes.

    The settings file says which. Stop a run whenever you like (Ctrl-C, a kill, a power cut): the
    same command goes on from the last checkpoint.

    **nano_sim.yaml** (default): one command renders, trains while scenes come in, fits the
    presence verdict to what the tracker finds, sets its threshold on validation scenes and scores
    the network on shapes and textures that it never saw. Two cores train for two hours and then
    take a good hour for the rest. An H100 went on from the bundled weights for 5 minutes
    (`--set start=bundled --set minutes=5`); the rest takes somewhat longer there.

    **egoexo4d.yaml**: the paper's recipe on takes in the EgoExo4D processed layout
    (DATA/train/TAKE, DATA/val/TAKE), on a CPU, a GPU, or many of several machines under torchrun.
    Broken images and annotations are named, skipped and counted.

    **Examples**

    - `lmeec train runs/nano`: all of it, with the settings of nano_sim.yaml
    - `lmeec train runs/try --set minutes=10 --set scenes=500 --set test_scenes=10`: a short try
    - `lmeec train runs/nano --set session_minutes=25`: a part of it, for a machine on loan; exit
      code 3 while there is more to do
    - `tensorboard --logdir runs/nano/tensorboard`: curves and examples, in another terminal
    - `lmeec demo --checkpoint runs/nano/out/nano.safetensors`: try the weights
    - `lmeec train runs/ego --config egoexo4d.yaml --set data=/data/egoexo4d
      --set checkpoint=sam2.1_hiera_base_plus.pt`: the paper's training on one GPU
    - `torchrun --nproc-per-node 4 --no-python lmeec train runs/ego --config egoexo4d.yaml ...`: on
      four
    - `lmeec train runs/own --config egoexo4d.yaml --set data=takes --set preset=nano
      --set epochs=5`: fine-tune the small network on takes of your own

    Results: WORK/out/PRESET.safetensors (weights), metrics.json (settings, machine, curve) and, on
    simulated scenes, done.json (scores). WORK/nano.log or WORK/train.log has the details. Rendering
    needs MuJoCo, and TensorBoard its library: pip install 'lmeec[simulation,training]'.
    """
    from lmeec_core.cli.exit_codes import run_command

    def run() -> int:
        return 0 if _run(work, find_config(config), changes or (), out or work / "out") else 3

    try:
        run_command(run, error_code=2)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from the last checkpoint", err=True)
        raise typer.Exit(130) from None


def _run(work: Path, config: Path, changes: Sequence[str], out: Path) -> bool:
    """Train and show the results; whether all is done."""
    from rich.console import Console

    settings = read_config(config, changes)
    work, out = work.resolve(), out.resolve()
    if isinstance(settings, TakeTrainConfig):
        from lmeec_core.training.take_command import train_on_takes

        train_on_takes(settings, work, out)
        return True
    if settings.render and importlib.util.find_spec("mujoco") is None:
        raise InputError(
            "MuJoCo is not installed, which renders the scenes: pip install 'lmeec[simulation]', "
            "or --set render=false with scenes in the run's folder"
        )
    work.mkdir(parents=True, exist_ok=True)
    remember(settings, work)

    from lmeec_core.training import nano
    from lmeec_core.training.monitor import RunMonitor, results_table

    console = Console()
    if not (out / nano.DONE).is_file():
        log = log_to(work / nano.LOG)
        try:
            folder = work / "tensorboard" if settings.tensorboard else None
            with RunMonitor(console, folder) as monitor:
                nano.work(settings.arguments(work, out), monitor)
        finally:
            logging.getLogger("lmeec_core").removeHandler(log)
            log.close()
    if not (out / nano.DONE).is_file():
        console.print("time is up for now; the same command goes on", highlight=False)
        return False
    console.print(results_table(json.loads((out / nano.DONE).read_text())))
    console.print(f"weights: {out / nano.WEIGHTS}", highlight=False, soft_wrap=True)
    return True


def log_to(path: Path) -> logging.FileHandler:
    """Append what the package logs to a file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("lmeec_core")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return handler

"""`lmeec train`: training from the command line, with settings from a YAML file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from lmeec_core.errors import InputError


def train_command(
    work: Annotated[
        Path, typer.Argument(help="Folder of the run: scenes, checkpoint, TensorBoard, log.")
    ],
    config: Annotated[
        str, typer.Option(help="Settings: a YAML file, or the name of one in the package.")
    ] = "nano_sim.yaml",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a setting: name=value; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the weights.", show_default="WORK/out")
    ] = None,
) -> None:
    """Train a network: the small one on simulated scenes, or any preset on takes.

    The settings file chooses the recipe. A run can be stopped at any time (Ctrl-C, a kill, a power
    cut); the same command resumes it from the last checkpoint.

    **nano_sim.yaml** (default): renders scenes, trains while they are rendered, fits the presence
    check to what the tracker finds, sets its threshold on validation scenes, and scores the network
    on shapes and textures not used in training. On two cores, training takes two hours and the rest
    a good hour. On an H100, fine-tuning the bundled weights took 5 minutes
    (`--set start=bundled --set minutes=5`); the rest takes somewhat longer there.

    **egoexo4d.yaml**: the paper's recipe on takes in the EgoExo4D processed layout
    (DATA/train/TAKE, DATA/val/TAKE), on a CPU, a GPU, or several GPUs and machines under torchrun.
    Broken images and annotations are named, skipped and counted.

    **omama.yaml**: the matcher of the method omama, as published, on takes in the same layout. The
    feature extractor is frozen: each image's features are computed once and kept in files.

    **Examples**

    - `lmeec train runs/nano`: a full run with the settings of nano_sim.yaml
    - `lmeec train runs/try --set minutes=10 --set scenes=500 --set test_scenes=10`: a short test
    - `lmeec train runs/nano --set session_minutes=25`: train for 25 minutes, then stop; the exit
      code is 3 until the run is finished
    - `lmeec train runs/exact --set steps=2000`: a fixed number of steps on all scenes; the same
      seed gives the same weights (on a CPU with the same number of threads)
    - `tensorboard --logdir runs/nano/tensorboard`: curves and examples, in another terminal
    - `lmeec demo --checkpoint runs/nano/out/nano.safetensors`: try the weights
    - `lmeec train runs/ego --config egoexo4d.yaml --set data=/data/egoexo4d
      --set checkpoint=sam2.1_hiera_base_plus.pt`: the paper's training on one GPU
    - `torchrun --nproc-per-node 4 --no-python lmeec train runs/ego --config egoexo4d.yaml ...`: on
      four GPUs
    - `lmeec train runs/own --config egoexo4d.yaml --set data=takes --set preset=nano
      --set epochs=5`: fine-tune the small network on takes of your own
    - `lmeec train runs/match --config omama.yaml --set data=out/sim --set features=nano`: a matcher
      for the features of the small network

    Results: WORK/out/PRESET.safetensors (weights), metrics.json (settings, machine, curve) and, on
    simulated scenes, done.json (scores). WORK/nano.log or WORK/train.log has the details. Rendering
    needs MuJoCo, and TensorBoard its library: pip install 'lmeec[simulation,training]'.
    """
    from lmeec_core.cli.exit_codes import run_command

    def run() -> int:
        from lmeec_core.training.settings import find_config

        return 0 if _run(work, find_config(config), changes or [], out or work / "out") else 3

    try:
        run_command(run, error_code=2)
    except KeyboardInterrupt:
        typer.echo(
            "stopped; run the same command again to resume from the last checkpoint", err=True
        )
        raise typer.Exit(130) from None


def _run(work: Path, config: Path, changes: list[str], out: Path) -> bool:
    """Train and show the results; returns whether the run is finished."""
    from lmeec_core.training.settings import MatchTrainConfig, TrainConfig, read_config

    settings = read_config(config, changes)
    work, out = work.resolve(), out.resolve()
    if isinstance(settings, MatchTrainConfig):
        from lmeec_core.training.recipes import omama

        return omama.train(settings, work, out)
    if not isinstance(settings, TrainConfig):
        from lmeec_core.training.recipes import egoexo4d

        return egoexo4d.train(settings, work, out)
    if settings.render and importlib.util.find_spec("mujoco") is None:
        raise InputError(
            "MuJoCo is not installed, and the scenes are rendered with it: pip install "
            "'lmeec[simulation]', or put scenes into the run's folder and use --set render=false"
        )
    from lmeec_core.training.recipes import nano_run

    return nano_run.train(settings, work, out)

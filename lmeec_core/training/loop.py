"""The training loop shared by all recipes: one or several processes, resumable at any time."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from lmeec_core.errors import ExplainedError
from lmeec_core.training.checkpoints import CHECKPOINT, read_checkpoint, write_checkpoint
from lmeec_core.training.clips import Clip, Drawn
from lmeec_core.training.distributed import Processes
from lmeec_core.training.monitor import Monitor
from lmeec_core.training.optimizer import running_mean
from lmeec_core.training.recipe import Recipe, StageLike

logger = logging.getLogger(__name__)

LEAST_DRAWS = 100
"""Least total for the share of unreadable clips, so that a single early one is tolerated."""
LOST_STEPS, LOST_SHARE = 10, 0.02
"""A run gives up after LOST_STEPS consecutive steps with a gradient that is not finite, or when
such steps exceed LOST_SHARE of all steps (counted as at least 500)."""


class Trainer:
    """Trains a recipe; its checkpoint holds everything needed to resume the run.

    A step of W processes with A batches of B clips each takes the next W * A * B clips by number.
    A run may therefore be resumed with a different number of processes as long as the product
    stays the same; the gradient does not depend on how a step is divided. Random numbers in the
    loss depend only on the recipe's seed and the step. A run with a fixed number of steps that was
    interrupted and resumed therefore ends with exactly the same weights as an uninterrupted run
    (on a CPU with the same number of threads).

    Args:
        recipe: what to train, on the processes' device.
        folder: folder of the run; resumed from the checkpoint in it, if there is one.
        processes: the processes that train together.
        monitor: notified of progress, in rank 0.

    Attributes:
        step, spent: steps done, and seconds of training.
        history: reports and validation scores, the points of the curve.

    Raises:
        InputError: the checkpoint cannot be read, or is from an older version or another run.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, processes: Processes, monitor: Monitor | None = None
    ) -> None:
        self.recipe, self.folder, self.processes = recipe, folder, processes
        self.monitor = monitor or Monitor()
        self.model = recipe.model
        self.optimizer = recipe.make_optimizer()
        self.average: AveragedModel | None = None
        if recipe.average is not None:
            self.average = AveragedModel(
                self.model, multi_avg_fn=running_mean(recipe.average), use_buffers=True
            )
            self.average.module.eval().requires_grad_(False)
        self.step, self.spent = 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.unreadable = self.draws = 0
        """Number of clips that this process could not read, and of all that it tried to read; after
        resuming, rank 0 also holds the counts from before."""
        self._next = 0  # number of the next step's first clip
        self._split = 1  # parts per batch; increased when a GPU's memory runs out
        self._stages: deque[StageLike] = deque()
        self._errors: list[str] = []
        self._known: set[str] = set()
        self._lost = self.lost = 0  # skipped steps: consecutive, and in total
        self._sums: dict[str, Tensor] = {}
        self._rate = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        self.module: nn.Module = recipe.loss
        if processes.world > 1:
            on = [processes.device] if processes.device.type == "cuda" else None
            self.module = DistributedDataParallel(
                recipe.loss, device_ids=on, broadcast_buffers=False
            )

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, 0 .. 1."""
        return self.recipe.budget.progress(self.step, self.spent)

    @property
    def trained(self) -> nn.Module:
        """The result of the run: the averaged weights if there is an average, else the model."""
        return self.average.module if self.average else self.model

    # -- data --------------------------------------------------------------------------------

    def _plan(self) -> Iterator[list[Any]]:
        """Keys of this process's clips, step by step; loading workers run a few steps ahead."""
        recipe, processes = self.recipe, self.processes
        step, first = self.step, self._next
        while recipe.budget.steps is None or step < recipe.budget.steps:
            stage = recipe.stage(recipe.budget.progress(step, self.spent))
            share = stage.batch * recipe.accumulate
            self._stages.append(stage)
            start = first + processes.rank * share
            yield recipe.keys(range(start, start + share), stage)
            step, first = step + 1, first + processes.world * share

    def _batches(self) -> Iterator[tuple[StageLike, list[Drawn]]]:
        """This process's clips for each remaining step, with the step's stage."""
        loader: DataLoader[Drawn] = DataLoader(
            self.recipe.clips,
            batch_sampler=self._plan(),  # type: ignore[arg-type]
            num_workers=self.recipe.workers,
            collate_fn=list,
            pin_memory=self.processes.device.type == "cuda",
            worker_init_fn=_one_thread,
            # fork copies locks held by threads (OpenMP, OpenVINO, OpenCV), but not the threads.
            multiprocessing_context="spawn" if self.recipe.workers else None,
        )
        for drawn in loader:
            yield self._stages.popleft(), drawn

    def _readable(self, drawn: Sequence[Drawn]) -> list[Clip]:
        """The clips that were read; unreadable files are counted, remembered and reported.

        Raises:
            ExplainedError: too many clips could not be read, or there is nothing to train on.
        """
        for one in drawn:
            self.draws += len(one.errors) + (one.clip is not None)
            self.unreadable += len(one.errors)
            fresh = [e for e in dict.fromkeys(one.errors) if e not in self._known]
            self._known.update(fresh)
            self._errors += fresh
            for error in fresh:
                logger.warning("skipped: %s", error)
        limit = self.recipe.max_corrupt
        if self.unreadable > limit * max(self.draws, LEAST_DRAWS):
            last = "; ".join(list(self._known)[-3:])
            raise ExplainedError(
                f"{self.unreadable} of {self.draws} clips could not be read, more than the share "
                f"max_corrupt = {limit} allows (of {LEAST_DRAWS} at least): {last}; mend these "
                "files, take the takes out, or --set max_corrupt to a larger share"
            )
        clips = [one.clip for one in drawn if one.clip is not None]
        if len(clips) < len(drawn):
            raise ExplainedError(self.recipe.no_clip())
        return clips

    # -- one step ----------------------------------------------------------------------------

    def train_step(self, clips: Sequence[Clip], stage: StageLike) -> None:
        """One optimisation step on this process's clips.

        Raises:
            ExplainedError: the gradient was not finite too often (:data:`LOST_STEPS`), or the
                GPU's memory is too small.
        """
        before = [(b, b.clone()) for b in self.recipe.loss.buffers()]
        self.model.train()
        self._rate = self.recipe.begin_step(self.optimizer, stage, self.progress)
        while True:
            try:
                figures = self._gradients(clips, stage)
                break
            except torch.OutOfMemoryError as error:
                self._split_more(stage, error)
        norm = self._update()
        if norm is not None:
            figures["norm"] = norm.to(figures["steps"])
            for name, value in figures.items():
                self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
            if self.average is not None:
                self.average.update_parameters(self.model)
        else:  # the batch's statistics are as useless as its gradient
            for buffer, value in before:
                buffer.copy_(value)
        self._next += len(clips) * self.processes.world
        self.step += 1

    def _gradients(self, clips: Sequence[Clip], stage: StageLike) -> dict[str, Tensor]:
        """Accumulate the gradients of the step's clips, part by part; returns summed figures."""
        device, world = self.processes.device, self.processes.world
        torch.manual_seed((self.recipe.seed << 32) + self.step)
        self.optimizer.zero_grad(set_to_none=True)
        objects = torch.tensor(float(sum(clip.filled for clip in clips)), device=device)
        # Gradients are averaged over processes, so each divides by the mean number of objects.
        total = (self.processes.sum(objects) / world).clamp_min(1)
        size = max(1, stage.batch // self._split)
        parts = [clips[i : i + size] for i in range(0, len(clips), size)]
        figures = {"steps": torch.ones((), device=device)}
        for i, part in enumerate(parts):
            batch = [x.to(device, non_blocking=True) for x in self.recipe.stack(part)]
            with self._unsynchronised(i + 1 < len(parts)):
                loss, seen = self.module(stage, total, *batch)
                loss.backward()
            for name, value in seen.items():
                figures[name] = figures.get(name, torch.zeros_like(value)) + value
        return figures

    def _unsynchronised(self, wanted: bool) -> AbstractContextManager[Any]:
        if wanted and isinstance(self.module, DistributedDataParallel):
            return self.module.no_sync()
        return nullcontext()

    def _split_more(self, stage: StageLike, error: Exception) -> None:
        """Divide batches into smaller parts because the GPU's memory ran out.

        Raises:
            ExplainedError: they cannot be divided further, or other processes would have to do the
                same.
        """
        if self._split >= stage.batch or self.processes.world > 1:
            raise ExplainedError(
                f"the GPU's memory is too small for a batch of {stage.batch} clips in "
                f"{self._split} parts: give a smaller batch and a larger accumulate, or "
                "recompute=true, where the recipe has these settings"
            ) from error
        self._split *= 2
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        logger.warning("out of GPU memory: batches are computed in %d parts now", self._split)

    def _update(self) -> Tensor | None:
        """Clip and apply the gradients; returns the norm before. Not finite: no update, None."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
            self._lost = 0
            return norm
        self._lost += 1
        self.lost += 1
        logger.warning("step %d: the gradient is not finite; left out", self.step)
        told = f"{LOST_STEPS} steps in a row" if self._lost == LOST_STEPS else ""
        if self.lost > LOST_SHARE * max(self.step, 500):
            told = f"{self.lost} steps in all"
        if told:
            raise ExplainedError(
                f"the gradient was not finite for {told}, up to step {self.step}; try "
                "--set bf16=false or a smaller rate"
            )
        return None

    # -- the run -----------------------------------------------------------------------------

    def run(self, seconds: float = float("inf")) -> bool:
        """Train until the budget is used up (returns True) or ``seconds`` have passed (False)."""
        end = time.monotonic() + seconds
        reported, saved, validated = self.spent, self.spent, self.spent
        marked = self.step
        if self.progress >= 1:
            return True
        before = time.monotonic()
        for stage, drawn in self._batches():
            self.train_step(self._readable(drawn), stage)
            now = time.monotonic()
            self.spent, before = self.spent + now - before, now
            over, recipe = self.progress >= 1, self.recipe
            if recipe.report.due(self.step, self.spent - reported) or over:
                self._report(stage, (self.step - marked) / max(1e-9, self.spent - reported))
                reported, marked = self.spent, self.step
            if recipe.validation.due(self.step, self.spent - validated) or over:
                numbers = self.recipe.validate(self)
                if numbers:
                    self._remember(stage, {f"eval {k}": v for k, v in numbers.items()})
                validated, before = self.spent, time.monotonic()  # validation is not training time
            stopped = time.monotonic() > end
            if recipe.save.due(self.step, self.spent - saved) or over or stopped:
                self.save()
                saved = self.spent
            if over or stopped:
                return over
        return True

    def _report(self, stage: StageLike, speed: float) -> None:
        """Add a point to the curve: means over all processes and steps since the last report."""
        sums = self._all_sums()
        self._sums = {}
        record: dict[str, Any] = {name: sums.pop(name) for name in ("unreadable", "draws")}
        record |= {"left out": self.lost, "rate": self._rate, "steps_per_s": speed}
        steps = round(sums.pop("steps", 0))  # of all processes; 0 if all were skipped
        if steps:
            record["norm"] = sums.pop("norm") / steps
            record = self.recipe.summary(sums, steps) | record
        self._remember(stage, record)
        errors, self._errors = self._errors, []
        for error in (e for each in self.processes.gather(errors) for e in each):
            self.monitor.note(f"skipped: {error}")

    def _all_sums(self) -> dict[str, float]:
        """The figures since the last report and the counts of clips, summed over all processes."""
        names = sorted(self._sums)
        own = torch.tensor([self.unreadable, self.draws], dtype=torch.float64)
        values = [self._sums[name].double().cpu() for name in names]
        stacked = torch.stack([*values, *own]).to(self.processes.device)
        found = self.processes.sum(stacked).tolist()
        return dict(zip((*names, "unreadable", "draws"), found, strict=True))

    def _remember(self, stage: StageLike, record: dict[str, Any]) -> None:
        record = {"minutes": self.spent / 60, "step": self.step, "stage": stage.name} | record
        self.history.append(record)
        self.monitor.record(record, self.progress)
        text = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())
        logger.info("%s", ", ".join(text))

    # -- checkpoints -------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint in rank 0; every process must call this."""
        sums = self._all_sums()
        if not self.processes.first:
            return
        content = {
            "facts": self.recipe.facts(self.processes.world),
            "model": self.model.state_dict(), "loss": _others(self.recipe.loss),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(), "step": self.step, "next": self._next,
            "split": self._split, "lost": self.lost, "spent": self.spent,
            "history": self.history, "sums": sums,
        }  # fmt: skip
        write_checkpoint(self.folder, content)

    def _resume(self) -> None:
        """Resume from rank 0's checkpoint, if there is one."""
        content = read_checkpoint(self.folder) if self.processes.first else None
        content = self.processes.from_first(content)
        if content is None:
            return
        path = self.folder / CHECKPOINT
        self.recipe.check_facts(content["facts"], path, self.processes.world)
        self.model.load_state_dict(content["model"])
        self.recipe.loss.load_state_dict(content["loss"], strict=False)
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.spent, self.history = content["step"], content["spent"], content["history"]
        self._next, self._split = content["next"], content["split"]
        self.lost = content.get("lost", 0)  # missing in checkpoints of earlier versions
        if self.processes.first:
            sums = dict(content["sums"])
            self.unreadable, self.draws = (round(sums.pop(k)) for k in ("unreadable", "draws"))
            device = self.processes.device
            self._sums = {name: torch.tensor(v, device=device) for name, v in sums.items()}
        logger.info("continued at step %d, %.2f minutes", self.step, self.spent / 60)


def _others(loss: nn.Module) -> dict[str, Tensor]:
    """State of what is trained besides the network."""
    return {n: v for n, v in loss.state_dict().items() if not n.startswith("model.")}


def _one_thread(_: int) -> None:
    """Let each loading worker use one core."""
    cv2.setNumThreads(0)

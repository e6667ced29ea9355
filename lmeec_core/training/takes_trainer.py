"""Training on takes by the paper's recipe, in one process or several, resumable at any moment."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from lmeec_core.compact.conv_trunk import frozen_norms
from lmeec_core.errors import ExplainedError, InputError
from lmeec_core.model import LMEEC
from lmeec_core.training.distributed import Processes
from lmeec_core.training.monitor import Monitor
from lmeec_core.training.optimizer import cosine, freeze_idle, make_optimizer, set_rates
from lmeec_core.training.take_clips import Clip, Drawn, TakeClips, stack
from lmeec_core.training.take_loss import FIGURES, TERMS, ClipLoss
from lmeec_core.training.take_settings import TakeTrainConfig

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
STAGE = "takes"
LEAST_DRAWS = 100
"""Clips that the share of unreadable ones is taken of at least, so that one early one is none."""
LOST_STEPS = 10
"""Steps in a row whose gradient is not finite, after which a run gives up."""

Validate = Callable[[LMEEC], dict[str, float]]


class TakeTrainer:
    """Trains one network; all that a resumed run needs is in its checkpoint.

    Step s of a run with W processes, A batches of B clips per process and step takes clips
    s * W * A * B and on, so a run may be resumed by another number of processes as long as
    W * A * B stays; every number of processes computes the same gradient.

    Args:
        model: the network with the weights to start from, on the processes' device.
        settings: see configs/egoexo4d.yaml.
        clips: the data.
        folder: of the run; the checkpoint in it, if any, is continued.
        processes: who takes part.
        validate: called with the network now and then in every process; numbers for the history.
        monitor: told what happens, in rank 0.

    Raises:
        InputError: the checkpoint is of a run with another number of clips per step or on other
            takes, or the takes of the processes differ.
    """

    def __init__(
        self,
        model: LMEEC,
        settings: TakeTrainConfig,
        clips: TakeClips,
        folder: Path,
        processes: Processes,
        validate: Validate | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        self.model, self.settings, self.clips = model, settings, clips
        self.folder, self.processes = folder, processes
        self.validate, self.monitor = validate, monitor or Monitor()
        self.step_clips = settings.batch * settings.accumulate * processes.world
        epoch = len(clips.pairs)
        self.steps = settings.steps or math.ceil(settings.epochs * epoch / self.step_clips)
        freeze_idle(model, settings.fusion)
        self.optimizer = make_optimizer(
            model, settings.rate, settings.encoder_rate, settings.layer_decay,
            settings.weight_decay,
        )  # fmt: skip
        loss = ClipLoss(
            model, settings.loss.weights(), settings.capacity, settings.fusion, settings.bf16,
            settings.recompute,
        )  # fmt: skip
        self.step, self.spent = 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.unreadable = self.draws = 0
        """Clips that could not be read, and all that were to be, of this process; what a resumed
        run began with counts in rank 0."""
        self._errors: list[str] = []
        self._known: set[str] = set()
        self._lost = 0
        self._sums = torch.zeros(len(FIGURES) + 2, device=processes.device)
        if len(set(processes.gather(clips.digest))) > 1:
            raise InputError(
                f"{settings.folder(settings.train_split)}: the takes in it differ from machine to "
                "machine; all need the same ones"
            )
        self._resume()
        self.module: nn.Module = loss
        if processes.world > 1:
            on = [processes.device] if processes.device.type == "cuda" else None
            self.module = DistributedDataParallel(loss, device_ids=on, broadcast_buffers=False)

    # -- data --------------------------------------------------------------------------------

    def numbers(self, step: int) -> range:
        """The clips that this process takes at a step."""
        share = self.step_clips // self.processes.world
        first = step * self.step_clips + self.processes.rank * share
        return range(first, first + share)

    def _batches(self) -> Iterator[list[Drawn]]:
        """This process's clips of each step that is left."""
        loader = DataLoader(
            self.clips,
            batch_sampler=[list(self.numbers(step)) for step in range(self.step, self.steps)],
            num_workers=self.settings.workers,
            collate_fn=list,
            worker_init_fn=_quiet_worker,
            # A fork takes along the threads' locks (OpenMP, OpenVINO, OpenCV), not the threads.
            multiprocessing_context="spawn" if self.settings.workers else None,
        )
        yield from loader

    def _readable(self, drawn: Sequence[Drawn]) -> list[Clip]:
        """The clips; what could not be read is counted, remembered by name and reported.

        Raises:
            ExplainedError: too much could not be read, or there is nothing to train on.
        """
        for one in drawn:
            self.draws += len(one.errors) + (one.clip is not None)
            self.unreadable += len(one.errors)
            fresh = [e for e in dict.fromkeys(one.errors) if e not in self._known]
            self._known.update(fresh)
            self._errors += fresh
            for error in fresh:
                logger.warning("skipped: %s", error)
        limit = self.settings.max_corrupt
        if self.unreadable > limit * max(self.draws, LEAST_DRAWS):
            last = "; ".join(list(self._known)[-3:])
            raise ExplainedError(
                f"{self.unreadable} of {self.draws} clips could not be read, more than the share "
                f"max_corrupt = {limit} allows (of {LEAST_DRAWS} at least): {last}; mend these "
                "files, take the takes out, or --set max_corrupt to a larger share"
            )
        clips = [one.clip for one in drawn if one.clip is not None]
        if len(clips) < len(drawn):
            raise ExplainedError(
                f"{self.settings.folder(self.settings.train_split)}: takes without a clip of "
                f"{self.settings.frames} annotated frames with a query mask on the first and an "
                "annotated target; take them out, or --set frames to fewer"
            )
        return clips

    # -- one step ----------------------------------------------------------------------------

    def train_step(self, clips: Sequence[Clip]) -> None:
        """One optimisation step on this process's clips.

        Raises:
            ExplainedError: the gradient was not finite for :data:`LOST_STEPS` steps in a row.
        """
        settings, device = self.settings, self.processes.device
        self.model.train()
        frozen_norms(self.model)
        set_rates(self.optimizer, cosine(self.step / self.steps, settings.floor))
        self.optimizer.zero_grad(set_to_none=True)
        objects = torch.tensor(float(sum(clip.filled for clip in clips)), device=device)
        # Gradients are averaged over processes, so each divides by the mean number of objects.
        total = (self.processes.sum(objects) / self.processes.world).clamp_min(1)
        parts = [clips[i : i + settings.batch] for i in range(0, len(clips), settings.batch)]
        figures = torch.zeros(len(FIGURES), device=device)
        for i, part in enumerate(parts):
            batch = [x.to(device, non_blocking=True) for x in stack(part)]
            with self._unsynchronised(i + 1 < len(parts)):
                loss, seen = self.module(*batch, total)
                loss.backward()
            figures += seen
        norm = self._update()
        extra = torch.stack((norm, norm.new_ones(())))
        self._sums += torch.cat((figures, extra.to(figures)))
        self.step += 1

    def _unsynchronised(self, wanted: bool) -> AbstractContextManager[Any]:
        if wanted and isinstance(self.module, DistributedDataParallel):
            return self.module.no_sync()
        return nullcontext()

    def _update(self) -> Tensor:
        """Clip and apply the gradients; the norm before clipping. Not finite: no update."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.settings.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
            self._lost = 0
            return norm
        self._lost += 1
        logger.warning("step %d: the gradient is not finite; left out", self.step)
        if self._lost == LOST_STEPS:
            raise ExplainedError(
                f"the gradient was not finite for {LOST_STEPS} steps in a row, up to step "
                f"{self.step}; try --set bf16=false or a smaller rate"
            )
        return torch.zeros_like(norm)

    # -- the run -----------------------------------------------------------------------------

    def run(self) -> None:
        """Train until the last step."""
        settings = self.settings
        start, marked = time.monotonic() - self.spent, self.step
        reported = time.monotonic()
        for drawn in self._batches():
            self.train_step(self._readable(drawn))
            self.spent = time.monotonic() - start
            last = self.step == self.steps
            if self.step % settings.report_steps == 0 or last:
                now = time.monotonic()
                self._report((self.step - marked) / (now - reported))
                reported, marked = now, self.step
            if self.validate and (self.step % settings.validate_steps == 0 or last):
                numbers = self.validate(self.model)
                self._remember({f"eval {name}": value for name, value in numbers.items()})
                reported, marked = time.monotonic(), self.step
            if self.step % settings.save_steps == 0 or last:
                self.save()

    def _report(self, speed: float) -> None:
        """Add a point to the curve: means over all processes and the steps since the last one."""
        names = (*FIGURES, "norm", "steps", "unreadable", "draws")
        found = dict(zip(names, self._all_sums().tolist(), strict=True))
        self._sums.zero_()
        steps = max(found["steps"], 1)  # of all processes
        terms = {f"{name} loss": found[name] / steps for name in TERMS}
        self._remember(
            {
                "loss": sum(terms.values()), **terms, "norm": found["norm"] / steps,
                "iou": found["overlap"] / max(found["present"], 1),
                "presence accuracy": found["right"] / max(found["counted"], 1),
                "rate": self.settings.rate * cosine(self.step / self.steps, self.settings.floor),
                "epoch": self.step * self.step_clips / len(self.clips.pairs),
                "steps_per_s": speed, "unreadable": found["unreadable"], "draws": found["draws"],
            }
        )  # fmt: skip
        errors, self._errors = self._errors, []
        for error in (e for each in self.processes.gather(errors) for e in each):
            self.monitor.note(f"skipped: {error}")

    def _all_sums(self) -> Tensor:
        """The figures since the last report, and the counts of clips, of all processes."""
        counts = torch.tensor([self.unreadable, self.draws]).to(self._sums)
        return self.processes.sum(torch.cat((self._sums, counts)))

    def _remember(self, record: dict[str, Any]) -> None:
        record = {"minutes": self.spent / 60, "step": self.step, "stage": STAGE} | record
        self.history.append(record)
        self.monitor.record(record, self.step / self.steps)
        text = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())
        logger.info("%s", ", ".join(text))

    # -- checkpoints -------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint: rank 0 writes a file beside it and renames that."""
        sums = self._all_sums()
        if not self.processes.first:
            return
        content = {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "step": self.step, "step_clips": self.step_clips, "spent": self.spent,
            "history": self.history, "sums": sums, "clips": self.clips.digest,
        }  # fmt: skip
        partial = self.folder / f".{CHECKPOINT}.partial"  # one that was cut off is overwritten
        torch.save(content, partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())  # a power cut leaves the old or the new one, too
        os.replace(partial, self.folder / CHECKPOINT)

    def _resume(self) -> None:
        """Continue from rank 0's checkpoint, if it has one."""
        path, content = self.folder / CHECKPOINT, None
        if self.processes.first and path.is_file():
            content = torch.load(path, map_location="cpu", weights_only=True)
        content = self.processes.from_first(content)
        if content is None:
            return
        before = content["step_clips"]
        if before != self.step_clips:
            raise InputError(
                f"{path}: this run takes {before} clips per step; now it is batch "
                f"{self.settings.batch} x accumulate {self.settings.accumulate} x "
                f"{self.processes.world} processes = {self.step_clips}; set batch and accumulate "
                f"so that the product is {before}"
            )
        if content["clips"] != self.clips.digest:
            raise InputError(
                f"{path}: this run began with other takes than those that now are in "
                f"{self.settings.folder(self.settings.train_split)}; bring those back, or start a "
                "run in another folder from this one's weights (--set checkpoint=...)"
            )
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.spent, self.history = content["step"], content["spent"], content["history"]
        if self.processes.first:
            *_, self.unreadable, self.draws = (round(v) for v in content["sums"].tolist())
            self._sums.copy_(content["sums"][:-2])
        logger.info("continued at step %d of %d", self.step, self.steps)


def _quiet_worker(_: int) -> None:
    """Loading processes are one core each."""
    cv2.setNumThreads(0)

"""Time-boxed training of a small network on simulated scenes, resumable at any moment."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.compact import CompactLMEEC
from lmeec_core.compact.conv_trunk import frozen_norms
from lmeec_core.compact.features import EmbeddedFeatures
from lmeec_core.compact.layers import masked_mean
from lmeec_core.compact.matching import MatchPrompt
from lmeec_core.config import Fusion, ModelConfig
from lmeec_core.errors import InputError
from lmeec_core.files import replacing
from lmeec_core.model import LMEEC, ViewFeatures
from lmeec_core.training import losses
from lmeec_core.training.forward import (
    ClipMemory,
    Step,
    forward_clip_frame,
    forward_pairs,
    swap,
)
from lmeec_core.training.parts import (
    ForegroundHead,
    initialise,
    share_parameters,
)
from lmeec_core.training.sampling import Examples, sample
from lmeec_core.training.stages import NANO_WEIGHTS, Stage, stage_at
from lmeec_core.training.store import SceneStore

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Schedule:
    """How a run learns.

    Attributes:
        stages: the curriculum.
        minutes: length of the whole run, pauses not counted.
        steps: length in optimisation steps in place of minutes, for runs that are compared.
        rate: largest learning rate.
        warmup: share of the run in which the rate rises; then it falls as a cosine.
        floor: last learning rate as a share of the largest.
        decay: weight decay of matrices.
        clip: largest gradient norm.
        ema: decay of the averaged weights; its memory, 1 / (1 - ema) steps, is to be short beside
            the last stage.
        fusion: how the memory-aware and the view-specific feature are fused.
        bf16: compute in bfloat16.
        seed: of weights and sampling.
    """

    stages: tuple[Stage, ...]
    minutes: float
    rate: float = 1.5e-3
    warmup: float = 0.03
    floor: float = 0.02
    decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.998
    fusion: Fusion = "mv_moe"
    bf16: bool = True
    seed: int = 0
    steps: int | None = None


class Trainer:
    """Trains one network; every object that a resumed run needs is in its checkpoint.

    Args:
        config: the network; it needs matching.
        schedule: see :class:`Schedule`.
        store: training scenes; may grow while training goes on.
        folder: where the checkpoint lies; an existing one is continued.
        device: where to train.
        evaluate: called with the averaged network now and then, returns numbers for the history.
        evaluate_every: minutes between those calls.
        watch: called with every new entry of the history.
        start: weights to begin with; None trains from scratch. A checkpoint in the folder wins.
    """

    def __init__(
        self,
        config: ModelConfig,
        schedule: Schedule,
        store: SceneStore,
        folder: Path,
        device: torch.device,
        evaluate: Callable[[LMEEC], dict[str, float]] | None = None,
        evaluate_every: float = 4.0,
        watch: Callable[[dict[str, Any]], None] | None = None,
        start: dict[str, Tensor] | None = None,
    ) -> None:
        if config.matching is None:
            raise InputError("config.matching: None given; this trainer needs the embedding")
        self.config, self.schedule, self.store = config, schedule, store
        self.folder, self.device = folder, device
        self.evaluate, self.evaluate_every, self.watch = evaluate, evaluate_every, watch
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(schedule.seed)
        self.model = LMEEC(config)
        initialise(self.model)
        if start is not None:
            self.model.load_state_dict(start)
        self.model.to(device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.foreground = ForegroundHead(config.hidden_dim).to(device)
        self.averaged = LMEEC(config).to(device).eval().requires_grad_(False)
        self.averaged.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged.load_state_dict(self.model.state_dict())
        self._sized: dict[int, LMEEC] = {config.image_size: self.model}
        self.optimizer = self._make_optimizer()
        self.step, self.spent = 0, 0.0
        self.history: list[dict[str, Any]] = []
        theirs = self.model.state_dict()
        pairs = [(v, theirs[n]) for n, v in self.averaged.state_dict().items()]
        self._averages = [a for a, _ in pairs if a.is_floating_point()]
        self._sources = [b for _, b in pairs if b.is_floating_point()]
        self._sums: dict[str, Tensor] = {}
        self._summed = 0
        self._shrunk = 1.0  # smaller batches after the memory ran out
        if (folder / CHECKPOINT).is_file():
            self.load()

    # -- parts -------------------------------------------------------------------------------

    def _make_optimizer(self) -> torch.optim.AdamW:
        groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
        modules = (("", self.model), ("foreground.", self.foreground))
        for prefix, module in modules:
            for name, parameter in module.named_parameters():
                encoder = (prefix + name).startswith("image_encoder.")
                key = (parameter.ndim > 1, "log_temperature" in name, encoder)
                groups.setdefault(key, []).append(parameter)
        settings = [
            {
                "params": members,
                "weight_decay": self.schedule.decay if matrix else 0.0,
                "factor": 10.0 if temperature else 1.0,
                "encoder": encoder,
            }
            for (matrix, temperature, encoder), members in groups.items()
        ]
        return torch.optim.AdamW(settings, lr=self.schedule.rate, betas=(0.9, 0.98), fused=True)

    def sized(self, size: int) -> LMEEC:
        """The network at another image size; the weights are the same."""
        if size not in self._sized:
            other = LMEEC(self.config.model_copy(update={"image_size": size})).to(self.device)
            share_parameters(self.model, other)
            self._sized[size] = other
        return self._sized[size]

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 .. 1."""
        if self.schedule.steps is not None:
            return min(1.0, self.step / self.schedule.steps)
        return min(1.0, self.spent / (60 * self.schedule.minutes)) if self.schedule.minutes else 1.0

    def _set_rate(self, stage: Stage) -> float:
        warmup, floor = self.schedule.warmup, self.schedule.floor
        after = max(0.0, (self.progress - warmup) / (1 - warmup))
        rate = self.schedule.rate * min(1.0, (self.progress + 1e-3) / warmup)
        rate *= floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * after))
        for group in self.optimizer.param_groups:
            encoder = stage.encoder_rate if group["encoder"] else 1.0
            group["lr"] = max(rate, 1e-6) * group["factor"] * encoder
        return rate

    # -- one step ----------------------------------------------------------------------------

    def terms(
        self, stage: Stage, examples: Examples
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss terms and figures to report for a batch of examples."""
        model = self.sized(stage.size)
        times, rows = examples.images.shape[:2]
        views = model.encode_images(examples.images.flatten(0, 1))
        sums: dict[str, Tensor] = {}
        figures: dict[str, Tensor] = {}
        memory = ClipMemory(model, newest_first=bool(torch.rand(()) < 0.5))
        for t in range(times):
            query = views.map(lambda x, t=t: x.unflatten(0, (times, rows))[t])  # type: ignore[misc]
            masks, truth = examples.masks(t), examples.truth(t)
            valid = (masks.flatten(2).any(dim=2) & (examples.objects > 0)).float()
            if stage.kind == "contrast":
                step = Step(None, model.make_prompts(query, masks, swap(query)))  # type: ignore[arg-type]
            elif times == 1:
                fusion = self.schedule.fusion if torch.rand(()) < 0.5 else None
                step = forward_pairs(model, query, swap(query), masks, stage.sought, fusion)
            else:
                step = forward_clip_frame(
                    model, query, swap(query), masks, stage.sought, memory, self.schedule.fusion
                )
            terms = self._contrast(
                model, query, step.match, examples, masks, truth, valid, stage, figures
            )
            if step.decoded is not None:
                terms |= self._masks(step, truth[:, : stage.sought], valid, figures, stage)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value / times
        person = (examples.labels == 255).flatten(0, 1)
        thing = ((examples.labels > 0) & (examples.labels < 255)).flatten(0, 1)
        target = F.avg_pool2d(torch.stack((thing, person), dim=1).float(), 2)
        sums["foreground"] = stage.contrast * losses.foreground_loss(
            self.foreground(views).float(), target
        )
        return sums, figures

    def _contrast(
        self,
        model: LMEEC,
        query: ViewFeatures,
        match: tuple[Tensor, ...],
        examples: Examples,
        masks: Tensor,
        truth: Tensor,
        valid: Tensor,
        stage: Stage,
        figures: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        assert isinstance(match, MatchPrompt) and isinstance(model, CompactLMEEC)
        target = swap(query)
        assert isinstance(target, EmbeddedFeatures)
        small = F.avg_pool2d(truth, truth.shape[-1] // match.maps.shape[-1])
        weight = valid * (small.flatten(2).sum(dim=2) > 0)
        scale = model.matching.log_temperatures.exp()[0]
        with torch.autocast(self.device.type, enabled=False):
            prototypes = model.describe(query, masks).prototype.flatten(0, 1)
            others = F.normalize(masked_mean(target.middle_embedding, small), dim=-1)
            near = losses.prototype_info_nce(
                prototypes, others.flatten(0, 1), examples.identity.flatten(), weight.flatten(),
                scale,
            )  # fmt: skip
            peak = match.maps[:, :, 0].flatten(2).argmax(dim=2, keepdim=True)
            hit = (small.flatten(2).gather(2, peak)[..., 0] > 0).float()
            figures["hit"] = losses.weighted_mean(hit, weight)
        return {
            "dense": 0.5 * stage.contrast
            * losses.dense_info_nce(match.maps[:, :, 0], small, scale, weight),
            "prototype": 0.3 * stage.contrast * near,
            "ranking": stage.contrast * losses.ranking_loss(match.maps[:, :, 0], small, valid),
            "propagation": stage.contrast
            * losses.propagation_loss(match.maps[:, :, 2], small, weight),
        }  # fmt: skip

    def _masks(
        self, step: Step, truth: Tensor, valid: Tensor, figures: dict[str, Tensor], stage: Stage
    ) -> dict[str, Tensor]:
        decoded = step.decoded
        target = F.avg_pool2d(truth, truth.shape[-1] // decoded.logits.shape[-1]).flatten(0, 1)
        counted = valid[:, : stage.sought].flatten()
        terms = losses.mask_losses(
            decoded.logits, decoded.predicted_iou, decoded.presence_logit, target, counted,
            NANO_WEIGHTS,
        )  # fmt: skip
        with torch.no_grad():
            present = (target.flatten(1).sum(dim=1) > 0).float()
            right = ((decoded.presence_logit > 0) == (present > 0)).float()
            figures["iou"] = losses.weighted_mean(
                losses.mask_iou(decoded.logits, target), counted * present
            )
            figures["presence accuracy"] = losses.weighted_mean(right, counted)
        return terms

    def train_step(self, stage: Stage) -> None:
        """One optimisation step."""
        examples = sample(
            self.store, stage.batch, stage.size, stage.crop, stage.sought, stage.objects,
            stage.times, stage.positive_share,
        )  # fmt: skip
        model = self.sized(stage.size).train()
        model.image_encoder.requires_grad_(stage.encoder_rate > 0)
        self.foreground.train()
        if stage.fixed_norms:
            frozen_norms(model)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.schedule.bf16):
            terms, figures = self.terms(stage, examples)
        loss = losses.total(terms)
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.schedule.clip)
        # A step whose gradient is not finite is left out, without waiting for the device.
        self.optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.step += 1
        self._average()
        with torch.no_grad():
            report = terms | figures | {"loss": loss, "norm": norm}
            for name, value in report.items():
                value = value.detach().float()
                self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._summed += 1

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.schedule.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self._averages, self._sources, 1 - decay)

    # -- the run -----------------------------------------------------------------------------

    def run(self, minutes: float, save_every: float = 45.0, report_every: float = 10.0) -> bool:
        """Train until the run is over or ``minutes`` have passed; returns whether it is over."""
        stages = self.schedule.stages
        start = last = saved = reported = time.monotonic()
        marked = self.step
        evaluated = self.spent
        while self.progress < 1 and time.monotonic() - start < 60 * minutes:
            stage = stages[stage_at(stages, self.progress)]
            stage = replace(stage, batch=max(1, int(stage.batch * self._shrunk)))
            rate = self._set_rate(stage)
            try:
                self.train_step(stage)
            except torch.OutOfMemoryError:
                if stage.batch == 1:
                    raise
                self._shrunk *= 0.7
                self.optimizer.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()
                logger.warning("out of memory: batches are %.2f times as large now", self._shrunk)
            now = time.monotonic()
            self.spent, last = self.spent + now - last, now
            if now - reported > report_every:
                self._report(stage, rate, (self.step - marked) / (now - reported))
                reported, marked = time.monotonic(), self.step
            if now - saved > save_every:
                self.save()
                saved = time.monotonic()
            if self.evaluate is not None and self.spent - evaluated > 60 * self.evaluate_every:
                self._evaluate(stage)
                evaluated = self.spent
                last = reported = time.monotonic()  # evaluation is not training time
                marked = self.step
        self.save()
        return self.progress >= 1

    def _report(self, stage: Stage, rate: float, speed: float) -> None:
        means = {name: float(value) / self._summed for name, value in self._sums.items()}
        self._sums, self._summed = {}, 0
        assert isinstance(self.model, CompactLMEEC)
        temperatures = self.model.matching.log_temperatures.exp().tolist()
        record = {
            "minutes": round(self.spent / 60, 3), "step": self.step, "stage": stage.name,
            "rate": rate, "steps_per_s": round(speed, 3), "scenes": self.store.count,
        }  # fmt: skip
        self._remember(record | {name: round(value, 5) for name, value in means.items()})
        text = " ".join(f"{name} {value:.3f}" for name, value in means.items())
        memory = ""
        if self.device.type == "cuda":
            memory = f" gpu {torch.cuda.max_memory_allocated() / 2**30:.0f}G"
        logger.info(
            "%.2f min step %d %s lr %.1e %.2f/s scenes %d%s T %s: %s", self.spent / 60, self.step,
            stage.name, rate, speed, self.store.count, memory,
            "/".join(f"{t:.0f}" for t in temperatures), text,
        )  # fmt: skip

    def _evaluate(self, stage: Stage) -> None:
        assert self.evaluate is not None
        start = time.monotonic()
        numbers = self.evaluate(self.averaged)
        record = {"minutes": round(self.spent / 60, 3), "step": self.step, "stage": stage.name}
        self._remember(record | {f"eval {k}": v for k, v in numbers.items()})
        text = " ".join(f"{k} {v:.3f}" for k, v in numbers.items())
        logger.info("EVAL %.2f min %s (%.1f s)", self.spent / 60, text, time.monotonic() - start)

    def _remember(self, record: dict[str, Any]) -> None:
        self.history.append(record)
        if self.watch is not None:
            self.watch(record)

    # -- checkpoints -------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint atomically."""
        cuda = torch.cuda.get_rng_state() if self.device.type == "cuda" else None
        content = {
            "model": self.model.state_dict(), "foreground": self.foreground.state_dict(),
            "averaged": self.averaged.state_dict(), "optimizer": self.optimizer.state_dict(),
            "step": self.step, "spent": self.spent, "history": self.history,
            "rng": torch.get_rng_state(), "cuda_rng": cuda,
        }  # fmt: skip
        with replacing(self.folder / CHECKPOINT) as partial:
            torch.save(content, partial)

    def load(self) -> None:
        """Continue from the checkpoint.

        Raises:
            ValueError: it cannot be read, or holds more than numbers (which is never executed).
        """
        path = self.folder / CHECKPOINT
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch's are of many kinds
            first = (str(error).strip() or repr(error)).splitlines()[0][:200]
            raise InputError(f"{path}: unreadable ({first}); remove it to begin anew") from error
        self.model.load_state_dict(content["model"])
        self.foreground.load_state_dict(content["foreground"])
        self.averaged.load_state_dict(content["averaged"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.spent = content["step"], content["spent"]
        self.history = content["history"]
        torch.set_rng_state(content["rng"])
        if content["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(content["cuda_rng"])
        logger.info("continued at %.2f minutes, step %d", self.spent / 60, self.step)

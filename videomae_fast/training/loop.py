"""The pre-training loop: batches in, masks made on the device, one forward, one backward, one optimizer step.

Hugging Face Accelerate runs it on one device, DDP, FSDP2 or DeepSpeed, as `accelerate launch` configures. Data
order, crops and masks are pure functions of (seed, step), so a run continued from any checkpoint computes what it
would have computed without the interruption.
"""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._optional import require
from ..data import ClipBatch, ClipDataset, ProblemLog, UnreadableVideosError, make_loader
from ..models import VideoMAEForPretraining
from .advice import Advisor
from .checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from .config import PretrainConfig
from .log import RunLog, check_finite, check_finite_weights, summary
from .meter import Meter
from .schedule import learning_rate, make_optimizer
from .setup import make_accelerator, make_dataset, plan_for, prepare_output


@dataclass(frozen=True)
class RunResult:
    """How a run ended on this process."""

    checkpoint: Path  # the last one, complete
    step: int  # finished steps
    is_main_process: bool


def pretrain(config: PretrainConfig) -> RunResult:
    """Run `config` to its end, to `max_steps`, or until SIGTERM; each of these leaves a checkpoint.

    Errors: ValueError for settings, data or output that cannot work; NonFiniteLossError; UnreadableVideosError.
    """
    output = prepare_output(config)
    accelerator = make_accelerator(config)
    torch.manual_seed(config.seed)
    dataset = make_dataset(config)
    model = VideoMAEForPretraining(config.model_config())
    if config.compile:
        model.compile(fullgraph=True)  # in place, so that the names of its weights stay
    run = _Run(config, output, accelerator, dataset, model)
    previous = signal.signal(signal.SIGTERM, run.on_sigterm)
    try:
        return run.run()
    finally:
        signal.signal(signal.SIGTERM, previous)
        run.close()


class _Run:
    """State of one run; `run` is the loop."""

    def __init__(
        self,
        config: PretrainConfig,
        output: Path,
        accelerator: Any,
        dataset: ClipDataset,
        model: VideoMAEForPretraining,
    ) -> None:
        self.config, self.output, self.accelerator = config, output, accelerator
        self.model, self.optimizer = accelerator.prepare(model, make_optimizer(model, config))
        self.videos_per_step = config.batch_size * accelerator.num_processes
        self.steps_per_epoch = len(dataset) // self.videos_per_step
        self.num_videos = len(dataset.annotations)
        self.order = {  # what the data order hangs on
            "videos": len(dataset),
            "videos_per_step": self.videos_per_step,
            "fingerprint": dataset.annotations.fingerprint(),
        }
        self.step = self._resume() if config.resume else 0
        total = config.epochs * self.steps_per_epoch
        self.last = min(total, config.max_steps or total)
        self.loader = make_loader(
            dataset,
            config.batch_size,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            workers=config.workers,
            start_step=self.step,
            num_steps=max(0, self.last - self.step),
        )
        main = accelerator.is_main_process
        name = "bad_videos.tsv" if main else f"bad_videos_rank{accelerator.process_index}.tsv"
        if self.step == 0:
            (output / name).unlink(missing_ok=True)  # of an earlier run that never came to a checkpoint
        self.problems = ProblemLog(output / name)
        self.log = RunLog(output, self.step) if main else None
        tqdm = require("tqdm").tqdm
        self.bar = tqdm(total=total, initial=self.step, desc="pretrain", unit="step", disable=not main)
        self.batches: Any = None
        self.terminated = False
        self.advisor = Advisor(config.workers)
        self.meter = Meter(accelerator, self.videos_per_step * config.crops_per_video, self.steps_per_epoch)

    def run(self) -> RunResult:
        save_every = self.config.save_every or self.steps_per_epoch
        self.batches = iter(self.loader)
        while self.step < self.last and not self._stops():
            with self.meter.waiting():
                batch = self._next_batch()
            for problem in self.problems.add(batch.problems):
                self.bar.write(f"unreadable video replaced: {problem.path}: {problem.reason}")
            videos_read = (self.step + 1) * self.config.batch_size
            self.problems.check_share(self.config.max_bad_share, videos_read, self.num_videos)
            self.meter.add(*self._train_step(batch), batch.seconds)
            self.step += 1
            self.bar.update()
            saves = self.step % save_every == 0
            if saves or self.step % self.config.log_every == 0:
                self._write_log()
            if saves:
                self._save()
        self._write_log()
        checkpoint = self._save()
        self._report_end()
        return RunResult(checkpoint, self.step, self.accelerator.is_main_process)

    def close(self) -> None:
        """Close files and progress bar, end the workers, and leave the process group."""
        self.bar.close()
        if self.log is not None:
            self.log.close()
        # The traceback of an error keeps the iterator alive, and nothing public ends its workers then.
        getattr(self.batches, "_shutdown_workers", lambda: None)()
        self.accelerator.end_training()

    def on_sigterm(self, number: int, frame: Any) -> None:
        """Remember to stop after the current step."""
        self.terminated = True

    def _next_batch(self) -> ClipBatch:
        try:
            return next(self.batches)
        except UnreadableVideosError as error:  # a worker's error arrives with its traceback as text
            raise UnreadableVideosError(str(error).rsplit("UnreadableVideosError: ", 1)[-1]) from None

    def _save(self) -> Path:
        check_finite_weights(self.model, self.step, list_checkpoints(self.output))
        return save_checkpoint(self.accelerator, self.output, self.step, self.config, self.order)

    def _train_step(self, batch: ClipBatch) -> tuple[Tensor, float]:
        lr = learning_rate(self.step, self.config, self.steps_per_epoch, self.videos_per_step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        batch = batch.to(self.accelerator.device, non_blocking=True)
        plan = plan_for(self.config, batch.sample)
        loss = self.model(batch.clips, plan)
        self.accelerator.backward(loss)
        if self.config.clip_grad:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach(), lr

    def _write_log(self) -> None:
        rows = self.meter.flush(self.step)
        if not rows:
            return
        if self.log is not None:
            self.log.write(rows)
            if advice := self.advisor.advice(self.meter.window):
                self.bar.write(advice)
        self.bar.set_postfix_str(summary(rows[-1]))
        check_finite(rows, list_checkpoints(self.output))

    def _resume(self) -> int:
        checkpoints = list_checkpoints(self.output)
        if not checkpoints:
            self.accelerator.print(f"no checkpoint in {self.output} yet: starting from the beginning")
            return 0
        step = load_checkpoint(self.accelerator, checkpoints[-1], self.config, self.order)
        self.accelerator.print(f"continuing after step {step} from {checkpoints[-1]}")
        return step

    def _stops(self) -> bool:
        """Whether SIGTERM asked to stop; ranks agree at log intervals, where they meet anyway."""
        if self.accelerator.num_processes == 1:
            return self.terminated
        if self.step % self.config.log_every:
            return False
        if self.terminated:
            self.accelerator.set_trigger()
        self.terminated = bool(self.accelerator.check_trigger())
        return self.terminated

    def _report_end(self) -> None:
        say = self.accelerator.print
        if self.step < self.last:
            say(f"stopped by SIGTERM after step {self.step}; continue with --resume")
        if len(self.problems):
            say(
                f"{len(self.problems)} unreadable videos, replaced {self.problems.replaced} times: {self.problems.path}"
            )

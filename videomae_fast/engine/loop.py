"""The loop of every training run: one optimizer step per batch, logs, checkpoints, exact resume.

A recipe gives the engine its model, batches and step; see `Recipe`. The data order and all random draws of a step are
pure functions of (seed, step), so a run that continues from a checkpoint computes the same as an uninterrupted run.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .._lock import lock_output
from .._optional import require
from .average import AveragedWeights
from .checkpoint import (
    check_checkpoint,
    join_shards,
    list_checkpoints,
    load_checkpoint,
    prepare_output,
    save_checkpoint,
    saved_engine,
    saved_processes,
)
from .health import check_finite, check_finite_weights, stopped
from .log import RunLog, check_trackers, say, summary, tracker_names
from .optim import learning_rate
from .parallel import asked_engine, everywhere, last_part, make_accelerator, prepare
from .recipe import Recipe
from .stop import StopSignals
from .timing import Timing


@dataclass(frozen=True)
class RunResult:
    """The end of a run, as this process saw it."""

    checkpoint: Path  # the last checkpoint, complete
    step: int  # finished steps
    is_main_process: bool
    finished: bool  # whether no signal stopped it before the last step that was asked for

    @property
    def weights(self) -> Path | None:
        """The file of weights in the checkpoint; None where an engine left them in shards that memory cannot join."""
        path = self.checkpoint / "model.safetensors"
        return path if path.is_file() else None


def run(recipe: Recipe) -> RunResult:
    """Train to the end, to `max_steps`, or until SIGTERM or Ctrl-C; each of the three leaves a checkpoint.

    Args:
        recipe: the task; this function builds it.

    Returns:
        The last checkpoint and step.

    Raises:
        ValueError: settings, data or output cannot work, another run has the output folder, or the checkpoint to
            continue from is damaged.
        ImportError: a package is missing; the message names it.
        NonFiniteLossError: the loss or a weight is not finite.
        OSError: the disk is full or broken, or a data-loading process died; the message names the last checkpoint.
    """
    options = recipe.config.run
    output = prepare_output(options.output, options.resume)
    trackers = tracker_names(options.track)
    check_trackers(trackers)
    accelerator = make_accelerator(options.precision, trackers, output / "tensorboard")
    with lock_output(output) if accelerator.is_main_process else nullcontext():
        if options.resume and (saved := list_checkpoints(output)):
            check_checkpoint(accelerator, saved[-1])
        torch.manual_seed(options.seed)
        model, optimizer = recipe.build(accelerator.device, accelerator.print)
        if accelerator.num_processes > 1:  # weights are equal; dropout must not be
            torch.manual_seed((options.seed + accelerator.process_index) % 2**63)
        state = _Run(recipe, output, accelerator, model, optimizer)
        try:
            with state.stop:
                result = state.run()
            state.close()
        except OSError as error:
            saved = list_checkpoints(output)
            last = f"its last checkpoint is {saved[-1]}" if saved else "it has no checkpoint"
            raise OSError(f"{error}. The run stopped after step {state.step}; {last}") from error
        finally:
            with suppress(OSError):  # what cannot be closed on a full disk is not the first error
                state.close()
    return result


class _Run:
    """The state of one run; `run` is the loop."""

    def __init__(self, recipe: Recipe, output: Path, accelerator: Any, model: nn.Module, optimizer: Optimizer) -> None:
        self.recipe, self.output, self.accelerator = recipe, output, accelerator
        self.options, self.optim = recipe.config.run, recipe.config.optimizer
        self.average = AveragedWeights(accelerator, model, recipe.ema_decay) if recipe.ema_decay else None
        self.model, self.optimizer = prepare(accelerator, model, optimizer)
        rank, world_size = accelerator.process_index, accelerator.num_processes
        self.samples_per_step = self.optim.samples * world_size
        self.steps_per_epoch = recipe.samples_per_epoch // self.samples_per_step
        self.order = recipe.order(self.samples_per_step)
        self.step = self._resume() if self.options.resume else 0
        total = self.optim.epochs * self.steps_per_epoch
        self.last = min(total, self.options.max_steps or total)
        self.batches = recipe.batches(rank, world_size, self.step, max(0, self.last - self.step))
        main = accelerator.is_main_process
        settings = recipe.config.flat() if main else None
        self.log = RunLog(accelerator, output, self.step, recipe.numbers, settings) if main else None
        tqdm = require("tqdm").tqdm
        self.bar = tqdm(total=total, initial=self.step, desc=recipe.name, unit="step", disable=not main)
        self.stop = StopSignals(main)
        clips = self.samples_per_step * recipe.clips_per_sample
        self.timing = Timing(accelerator, clips, self.steps_per_epoch, recipe.workers, recipe.cheaper)
        self.closing = ExitStack()  # one that fails, on a full disk for example, does not keep the others from closing
        self.closing.callback(accelerator.end_training)
        self.closing.callback(self.batches.close)
        self.closing.callback(self.log.close if self.log is not None else nullcontext)
        self.closing.callback(self.bar.close)

    def run(self) -> RunResult:
        self._train()
        self._write_log()
        checkpoint = self._save()
        if self.step < self.last:
            self.accelerator.print(f"stopped by {self.stop.name} after step {self.step}; continue with --resume")
        for line in self.recipe.report():
            self.accelerator.print(line)
        if self.step >= self.last and (line := join_shards(self.accelerator, checkpoint)):
            self.accelerator.print(line)
        return RunResult(checkpoint, self.step, self.accelerator.is_main_process, self.step >= self.last)

    def _train(self) -> None:
        save_every, eval_every = self.options.save_every or self.steps_per_epoch, self.options.eval_every
        while self.step < self.last and not self._stops():
            with self._saving_finished_steps(), self.timing.waiting():
                batch = next(self.batches)
            with self._naming_the_cause(f"step {self.step + 1}"):
                self._train_step(batch)
            self.step += 1
            self.bar.update()
            saves, evaluates = self.step % save_every == 0, eval_every and self.step % eval_every == 0
            if saves or evaluates or self.step % self.options.log_every == 0:
                self._write_log()
            if saves:
                self._save()
            if evaluates:
                with self._saving_finished_steps(), self._naming_the_cause(f"the evaluation after step {self.step}"):
                    self._evaluate()

    @contextmanager
    def _saving_finished_steps(self) -> Iterator[None]:
        """Save before a data-loading process that died ends the run; between steps the state is whole.

        Of several ranks, one that fails alone cannot save: the others wait for its next step, not for its save.
        """
        try:
            yield
        except (ChildProcessError, TimeoutError):
            if self.accelerator.num_processes == 1 and self.step:
                self.model.train()
                self._write_log()
                self._save()
            raise

    @contextmanager
    def _naming_the_cause(self, what: str) -> Iterator[None]:
        try:
            yield
        except FloatingPointError as error:
            raise stopped(
                f"{what} cannot be computed", list_checkpoints(self.output), f"The cause: {error}."
            ) from error

    def _cause(self, step: int) -> str:
        """Why the loss of a step is not finite. All ranks say what any of them found, since any has it in its batch."""
        found = require("accelerate.utils").gather_object([self.recipe.explain(step)])
        return " ".join(dict.fromkeys(filter(None, found)))

    def _train_step(self, batch: Any) -> None:
        lr = learning_rate(self.step, self.optim, self.steps_per_epoch, self.samples_per_step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        count, losses, numbers = self.optim.parts, [], []
        parts = iter(self.recipe.parts(batch, count, self.accelerator.device))
        for place in range(1, count + 1):  # not enumerate, which keeps its last item
            part = next(parts)
            with last_part(self.accelerator, self.model, place == count):
                loss, others = self.recipe.step(self.model, part, self.step)
                self.accelerator.backward(loss)
            del part  # before the next one is made
            losses.append(loss.detach())
            numbers.append(others)
        next(parts, None)  # what a recipe does after its last part, such as writing a teacher's logits
        if self.optim.clip_grad:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.optim.clip_grad)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        self.optimizer.zero_grad()
        totals = {name: _sum([each[name].detach() for each in numbers]) for name in numbers[0]}
        self.timing.add(_sum(losses), lr, batch.seconds, totals)

    def _write_log(self) -> None:
        rows, hint = self.timing.flush(self.step)
        if not rows:
            return
        if self.log is not None:
            self.log.write(rows)
            if hint:
                say(hint)
        self.bar.set_postfix_str(summary(rows[-1]))
        check_finite(rows, list_checkpoints(self.output), self._cause)

    def _save(self) -> Path:
        check_finite_weights(
            self.model, self.step, list_checkpoints(self.output), lambda holds: everywhere(self.accelerator, holds)
        )
        config, keep_checkpoints = self.recipe.config, self.options.keep_checkpoints
        return save_checkpoint(
            self.accelerator, self.output, self.step, config, self.order, keep_checkpoints, self._add_files
        )

    def _add_files(self, folder: Path) -> None:
        for name, text in self.recipe.files().items():
            (folder / name).write_text(text, encoding="utf-8")
        if self.average is not None:
            self.average.save(folder)

    def _evaluate(self) -> None:
        """Evaluate on every rank; sums and weights of all ranks are added up before the division."""
        model = self.model if self.average is None else self.average.model
        model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            shares = self.recipe.evaluate(model, self.accelerator.process_index, self.accelerator.num_processes)
        model.train()
        totals = self.accelerator.reduce(torch.stack(list(shares.values())), reduction="sum").tolist()
        results = {
            name: total / weight if weight else math.nan for name, (total, weight) in zip(shares, totals, strict=True)
        }
        if self.log is not None:
            self.log.write_evaluation(self.step, results)
            say(f"step {self.step}: " + ", ".join(f"eval {name} {value:.4f}" for name, value in results.items()))
        self.timing.restart()

    def _resume(self) -> int:
        checkpoints = list_checkpoints(self.output)
        if not checkpoints:
            self.accelerator.print(f"no checkpoint in {self.output} yet: starting from the beginning")
            return 0
        load = self.average.load if self.average is not None else lambda folder: None
        step = load_checkpoint(self.accelerator, checkpoints[-1], self.recipe.config, self.order, load)
        self.accelerator.print(f"continuing after step {step} from {checkpoints[-1]}")
        saved, ranks = saved_processes(checkpoints[-1]), self.accelerator.num_processes
        engine = saved_engine(checkpoints[-1])
        # A process that did not exist has no state to continue, and another engine does not read it.
        if saved != ranks or engine != asked_engine():
            torch.manual_seed((self.options.seed + 1_000_003 * step + self.accelerator.process_index) % 2**63)
            of = f"{saved} processes" if saved != ranks else engine
            self.accelerator.print(f"it is of {of}: each of the {ranks} draws dropout anew from here")
        return step

    def _stops(self) -> bool:
        """Whether a signal asked to stop; ranks agree at log intervals, where they synchronise anyway."""
        if self.accelerator.num_processes == 1:
            return bool(self.stop.name)
        if self.step % self.options.log_every:
            return False
        if self.stop.name:
            self.accelerator.set_trigger()
        if not self.accelerator.check_trigger():
            return False
        self.stop.name = self.stop.name or "a signal to another process"
        return True

    def close(self) -> None:
        """Close files and progress bar, end the workers, and leave the process group."""
        self.closing.close()


def _sum(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).sum()

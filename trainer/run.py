"""The training run, top to bottom: check, index, order, update, save, export.

OUT/
  _train.json        written first: what this run is; a rerun with anything else is refused
  metrics.jsonl      one object per step (`trainer.metrics`); tensorboard/, tracker.json: views of it
  old/               the old policy's log-probabilities (`trainer.old_logprobs`) while they are needed
  state/             resumable checkpoints (`trainer.checkpoint`); the last one is carried into the next round
  policy/            the exported Hugging Face folder (or where `export` says)
  _trainer.lock      who is writing here, while it does
  _done.json         written last: steps, metrics, digest of the exported weights
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pass_ops.errors import PassError
from trainer.batching import StepBatch
from trainer.checkpoint import load_checkpoint, remove_older, save_checkpoint
from trainer.compatibility import check_data_and_policy, open_shaped, sampling_temperature
from trainer.data import ShapedData, TrainData
from trainer.defaults import with_defaults
from trainer.determinism import determinism
from trainer.digests import sha256_file
from trainer.distributed import World, joined_world
from trainer.errors import StateError, TrainingStoppedError
from trainer.export import export_policy
from trainer.failures import leaving_nothing, saved, within_memory
from trainer.flops import token_share
from trainer.folder_lock import LOCK, locked
from trainer.metrics import StepMetrics, describe_step, summarize
from trainer.metrics_log import MetricsLog
from trainer.model_folder import local_folder, weights_digest
from trainer.old_logprobs import AUDIT
from trainer.options import TrainOptions
from trainer.pairs import open_pairs
from trainer.policy import Policy, chosen_device, device_options, load_policy
from trainer.records import (
    DONE,
    METRICS,
    STATE,
    Checkpoint,
    Done,
    check_export,
    check_metrics,
    complete_checkpoints,
    files_beside_weights,
    read_done,
    read_identity,
    read_metrics,
    write_json,
)
from trainer.run_folder import claim, describe
from trainer.steps import StepPlan, plan_steps, recompute_plan, step_batches
from trainer.stream import ahead_of_use
from trainer.update import apply_gradients, backward, learning_rate, make_optimizer

log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run produced. metrics: `trainer.summary.summarize` of its steps, and the filters' counts (rows_*)."""

    policy_dir: str
    steps: int
    metrics: Mapping[str, float]


def train(
    shaped: Sequence[str],
    *,
    policy: str,
    out: str,
    state: str | None = None,
    options: TrainOptions,
    policy_digest: str | None = None,
    vocabulary: Mapping[str, Any] | None = None,
    export: str | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """One round of updates of `policy` on shaped datasets.

    Args:
        shaped: dataset URLs.
        policy: Hugging Face folder of the model or LoRA adapter to train.
        out: local folder of this run. Called again with the same arguments, an interrupted run continues from its last
            checkpoint and a finished one returns its result.
        state: `out` of the round before, whose float32 weights, optimizer state and warm-up count are carried on;
            `policy` must be what that round exported.
        options: everything else; `TrainOptions` documents each field.
        policy_digest: the policy's, as generate records it, to be compared with the data's.
        vocabulary: likewise.
        export: folder of the exported policy, default out/policy.
        progress: called after each step with (steps done, steps in all, a line that describes the step).

    Raises:
        TrainDataError: the data is not shaped, or not trainable under these options.
        PolicyNotFoundError, PolicyMismatchError, AdapterError: the policy folder is missing or does not belong here.
        RunFolderError, StateError: out, state or export is not local, or holds something else.
        TrainingStoppedError: the run stopped with its state kept: at a limit, at NaN, or out of memory.
        NotSavedError: a file could not be written.
        PassError: errors of pass_ops.errors, where a dataset is incomplete, stale or corrupt.
    """
    sources = open_shaped(shaped)
    check_data_and_policy(sources, options=options, policy_digest=policy_digest, vocabulary=vocabulary)
    with leaving_nothing():
        return _train(
            ShapedData(sources),
            policy=policy,
            out=out,
            state=state,
            options=options,
            temperature=sampling_temperature(sources, options),
            export=export,
            progress=progress,
        )


def ended(
    shaped: Sequence[str],
    *,
    policy: str,
    out: str,
    state: str | None = None,
    options: TrainOptions,
    policy_digest: str | None = None,
    vocabulary: Mapping[str, Any] | None = None,
    export: str | None = None,
    device: str,
) -> TrainResult | None:
    """What `train` returns at once where this run has ended; None where there is something left to do.

    Only files are read: whoever would start processes for an update asks first. device: the kind that those compute on,
    cuda or cpu. Raises what `train` raises where `out` holds another run, or not what the training left there.
    """
    folder, exported = _folders(out, export)
    if read_identity(folder) is None or not exported.exists() or read_done(folder) is None:
        return None
    sources = open_shaped(shaped)
    check_data_and_policy(sources, options=options, policy_digest=policy_digest, vocabulary=vocabulary)
    filled = with_defaults(options, device=device, fits=lambda _: True)  # what fits decides no option of the identity
    _, identity = describe(ShapedData(sources), policy=policy, state=state, options=filled)
    claim(folder, exported, identity)
    return _ended(folder, exported)


def sft(
    pairs: Sequence[str],
    *,
    policy: str,
    out: str,
    options: TrainOptions,
    export: str | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Supervised training of `policy` on Parquet files of prompts and completions (`trainer.pairs`), by the same loop.

    The loss is next_token whatever options.loss says; kl_coef must be 0. Arguments and errors are those of `train`.
    """
    with leaving_nothing():
        return _train(
            open_pairs(pairs, policy),
            policy=policy,
            out=out,
            state=None,
            options=replace(options, loss="next_token"),
            temperature=1.0,
            export=export,
            progress=progress,
        )


def _train(
    data: TrainData,
    *,
    policy: str,
    out: str,
    state: str | None,
    options: TrainOptions,
    temperature: float,
    export: str | None,
    progress: Progress | None,
) -> TrainResult:
    folder, exported = _folders(out, export)
    with joined_world(options.device) as world, ExitStack() as held:
        options = device_options(policy, options, world)
        held.enter_context(determinism(options.deterministic, device=chosen_device(options.device).type))
        before, identity = world.on_main(lambda: describe(data, policy=policy, state=state, options=options))
        world.on_main(lambda: _lock(held, folder, exported))
        world.on_main(lambda: claim(folder, exported, identity))
        if (result := world.on_main(lambda: _ended(folder, exported))) is not None:
            return result
        model = load_policy(policy, options, world)
        plan = plan_steps(data, model, options, temperature=temperature)
        counts = ", ".join(f"{name} {count}" for name, count in plan.selection.counts.items())
        log.info("rollouts: %s", counts)
        run = _Run(plan=plan, policy=model, optimizer=make_optimizer(model.model, options), options=options)
        _resume(run, folder / STATE, before)
        if options.old_policy == "recompute" and run.step < len(plan.steps):
            _recompute_old(run, folder / "old")
        _run_steps(run, folder, progress=progress)
        return _finish(run, folder, exported)


def _folders(out: str, export: str | None) -> tuple[Path, Path]:
    """Of the run, and of the policy that it exports. Raises RunFolderError."""
    folder = local_folder(out, name="out")
    return folder, local_folder(export, name="export") if export else folder / "policy"


def _ended(folder: Path, exported: Path) -> TrainResult | None:
    """The result of a finished training, None while it is not. Raises StateError, AdapterError where what it left is
    no longer as it left it.
    """
    done = read_done(folder) if exported.exists() else None
    if done is None:
        return None
    check_metrics(folder, done)
    check_export(exported, done)
    return _result(done, exported)


def _lock(held: ExitStack, folder: Path, exported: Path) -> None:
    """Of this run's folder, and of the export where that is elsewhere."""
    held.enter_context(locked(folder / LOCK))
    if exported.parent != folder:
        held.enter_context(locked(exported.with_name(f".{exported.name}.lock")))


@dataclass(kw_only=True)
class _Run:
    """A run in progress. step: steps of this call done; updates: optimizer steps over all rounds."""

    plan: StepPlan
    policy: Policy
    optimizer: torch.optim.Optimizer
    options: TrainOptions
    step: int = 0
    updates: int = 0
    whole: bool = True  # False after a step failed while changing the weights: they must not be saved
    old: Path | None = None  # where the old policy's log-probabilities are, if they are recomputed

    @property
    def world(self) -> World:
        return self.policy.world


def _resume(run: _Run, state: Path, before: Checkpoint | None) -> None:
    """The run's own last checkpoint, else the one carried from the round before, else a fresh start."""
    own = run.world.on_main(lambda: complete_checkpoints(state))
    start = own[-1] if own else before
    if start is not None:
        with run.policy.fitting("while loading a checkpoint"):
            load_checkpoint(start, model=run.policy.model, optimizer=run.optimizer, world=run.world)
        run.updates = start.updates
        run.step = start.step if own else 0
    run.world.on_main(lambda: remove_older(state, keep=run.options.keep_checkpoints))  # if killed after a commit


def _recompute_old(run: _Run, folder: Path) -> None:
    if run.step and not (folder / AUDIT).exists():
        raise StateError(
            f"{folder} is lost, and the policy that its log-probabilities came from has been updated since. Start a "
            "new run in another folder."
        )
    with run.policy.fitting("while recomputing log-probabilities"):
        recompute_plan(run.plan, run.policy, run.options, folder=folder)
    run.old = folder


def _run_steps(run: _Run, folder: Path, *, progress: Progress | None) -> None:
    options, policy, dtype = run.options, run.policy, run.policy.scorer.compute_dtype
    share = token_share(policy.model, policy.device, dtype, options.peak_tflops, devices=run.world.size)
    writer = None
    if run.world.is_main:
        writer = MetricsLog(folder, step=run.step, updates=run.updates, options=options)
    made = step_batches(run.plan, policy, options, start=run.step, old=run.old)
    batches = ahead_of_use(made, depth=options.prefetch_steps)
    try:
        for step in run.plan.steps[run.step :]:
            started = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - started
            measured = StepMetrics()
            optimizer_values = _update(run, batch, measured)
            together = measured.gathered(run.world)
            seconds = time.perf_counter() - started
            values = together.finish(batch, seconds=seconds, data_wait=waited, token_share=share)
            line = {"step": run.step, "update": run.updates, "epoch": step.epoch} | optimizer_values | values
            if writer is not None:
                with saved("step's numbers", folder):
                    writer.write(line)
                if progress is not None:
                    progress(run.step, len(run.plan.steps), describe_step(line, len(run.plan.steps)))
            if _is_due(run):
                _save(run, folder)
    except (PassError, OSError) as error:
        run.optimizer.zero_grad(set_to_none=True)
        everywhere = run.world.size == 1 or isinstance(error, TrainingStoppedError)  # all ranks save, or none does
        if run.whole and everywhere and run.step and not _is_due(run):
            _save(run, folder)  # the weights are still those of the last good step
        raise
    finally:
        batches.close()
        if writer is not None:
            writer.close()


def _update(run: _Run, batch: StepBatch, measured: StepMetrics) -> dict[str, float]:
    """One optimizer step; the counters advance only after it succeeded."""
    stopped: TrainingStoppedError | None = None
    for micro in batch.micro_batches:
        try:
            with within_memory(micro, run.policy):
                moved = micro.to(run.policy.device)
                measured.add(moved, backward(run.policy, moved, options=run.options))
        except TrainingStoppedError as error:
            stopped = stopped or error
    run.world.agree(stopped)
    rate = learning_rate(run.updates, run.options, step=run.step, steps=len(run.plan.steps))
    with within_memory(batch.micro_batches[0], run.policy):
        try:
            norm = apply_gradients(run.policy, run.optimizer, batch, rate=rate, options=run.options)
        except torch.OutOfMemoryError:
            run.whole = False
            raise
    run.step += 1
    run.updates += 1
    return {"grad_norm": norm, "lr": rate}


def _is_due(run: _Run) -> bool:
    return run.step == len(run.plan.steps) or (run.options.save_every > 0 and run.step % run.options.save_every == 0)


def _save(run: _Run, folder: Path) -> None:
    with run.policy.fitting("while saving a checkpoint"), saved("checkpoint", folder):
        save_checkpoint(
            folder / STATE,
            step=run.step,
            updates=run.updates,
            model=run.policy.model,
            optimizer=run.optimizer,
            keep=run.options.keep_checkpoints,
            world=run.world,
        )


def _finish(run: _Run, folder: Path, exported: Path) -> TrainResult:
    temporary = exported.with_name(f".{exported.name}.writing")
    run.world.on_main(lambda: _clear(temporary, exported))
    with run.policy.fitting("while exporting the policy"), saved("exported policy", temporary):
        export_policy(run.policy, temporary, dtype=run.options.export_dtype)
    return _result(run.world.on_main(lambda: _complete(run, folder, temporary, exported)), exported)


def _clear(temporary: Path, exported: Path) -> None:
    for leftover in (temporary, exported):  # from an attempt killed before _done.json
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)


def _complete(run: _Run, folder: Path, temporary: Path, exported: Path) -> Done:
    temporary.rename(exported)
    counts = {f"rows_{name}": float(count) for name, count in run.plan.selection.counts.items()}
    done = Done(
        steps=run.step,
        updates=run.updates,
        policy_weights=weights_digest(exported),
        metrics=summarize(read_metrics(folder)) | counts,
        policy_files=files_beside_weights(exported),
        metrics_file=sha256_file(folder / METRICS) if (folder / METRICS).exists() else "",
    )
    write_json(folder / DONE, asdict(done))
    shutil.rmtree(folder / "old", ignore_errors=True)
    return done


def _result(done: Done, exported: Path) -> TrainResult:
    return TrainResult(policy_dir=str(exported), steps=done.steps, metrics=done.metrics)

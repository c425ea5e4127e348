"""The trainer's errors. Every class is a PassError and the stdlib class it refines."""

from __future__ import annotations

from pass_ops.errors import PassError


class TrainerError(PassError):
    """Root of the trainer's errors."""


class TrainOptionError(TrainerError, ValueError):
    """A training option is unknown, has the wrong type or value, contradicts another, or needs what is missing here."""


class TrainDataError(TrainerError, ValueError):
    """The data cannot be trained on: a missing column, lengths that disagree, unknown token ids, nothing left."""


class LossInputError(TrainerError, ValueError):
    """A loss was given arrays of unequal length or wrong type, or a choice that does not exist."""


class PolicyNotFoundError(TrainerError, FileNotFoundError):
    """The policy folder holds no Hugging Face checkpoint."""


class PolicyMismatchError(TrainerError, ValueError):
    """The policy does not belong to the shaped data, or the trainer cannot train its architecture correctly."""


class AdapterError(TrainerError, ValueError):
    """An adapter folder cannot be used: it is not LoRA in peft's format, or its base model is missing."""


class RunFolderError(TrainerError, ValueError):
    """A folder the trainer writes to is not on a local disk, or holds something else."""


class StateError(TrainerError, ValueError):
    """A run or checkpoint cannot be continued: incomplete, changed on disk, or made with other data or options."""


class TrainingStoppedError(TrainerError, ArithmeticError):
    """A run stopped at a limit its options set; the state is kept. `rollout_ids` are the rollouts responsible."""

    def __init__(self, message: str, *, rollout_ids: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.rollout_ids = rollout_ids


class NonFiniteTrainingError(TrainingStoppedError, FloatingPointError):
    """A model output, the loss or a gradient is NaN or infinite."""


class DeviceMemoryError(TrainingStoppedError, MemoryError):
    """A micro-batch does not fit into the device's memory."""


class NotSavedError(TrainerError, OSError):
    """A file could not be written, for example because the disk is full."""

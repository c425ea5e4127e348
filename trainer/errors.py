"""What the trainer refuses or stops at. Every class is a PassError and the stdlib class it refines."""

from __future__ import annotations

from pass_ops.errors import PassError


class TrainerError(PassError):
    """Root of the trainer's errors."""


class TrainOptionError(TrainerError, ValueError):
    """A training option has an unknown name, a value outside its range, or clashes with another."""


class TrainDataError(TrainerError, ValueError):
    """Shaped data cannot be trained on: lengths disagree, ids outside the vocabulary, a missing column."""


class NothingTrainableError(TrainDataError):
    """After the filters no rollout is left."""


class SamplingTreatmentError(TrainDataError):
    """The stored behaviour log-probabilities do not mean what the ratio needs, and no treatment was chosen."""


class PolicyNotFoundError(TrainerError, FileNotFoundError):
    """The policy folder is no Hugging Face checkpoint on this machine."""


class PolicyMismatchError(TrainerError, ValueError):
    """The policy, the shaped data and the carried state do not belong together."""


class LocalFolderError(TrainerError, ValueError):
    """A folder the trainer writes to or resumes from is not on a local disk."""


class ExportFolderError(TrainerError, FileExistsError):
    """The folder for the exported policy holds something else."""


class StateMismatchError(TrainerError, ValueError):
    """A training folder or state was made with other data, options or another model."""


class StateNotFoundError(TrainerError, FileNotFoundError):
    """A folder given as state holds no complete checkpoint."""


class CorruptStateError(TrainerError, ValueError):
    """A checkpoint's bytes disagree with its marker."""


class TrainingStoppedError(TrainerError, ArithmeticError):
    """A run was stopped for what its numbers say, its state kept; `rollout_ids` are the rollouts it came from."""

    def __init__(self, message: str, *, rollout_ids: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.rollout_ids = rollout_ids


class NonFiniteTrainingError(TrainingStoppedError, FloatingPointError):
    """NaN or infinity in a model output, the loss or a gradient."""


class ExplodedTrainingError(TrainingStoppedError):
    """A ratio or a gradient norm beyond stop_ratio or stop_grad_norm."""


class DeviceMemoryError(TrainingStoppedError, MemoryError):
    """A micro-batch does not fit into the device's memory."""


class NotSavedError(TrainerError, OSError):
    """Nothing can be written any more: the disk is full, or a limit is reached."""


class MismatchError(TrainingStoppedError):
    """The recomputed log-probabilities differ from the sampler's by more than max_mismatch."""

"""What may be wrong with an engine, its options, or one request."""

from __future__ import annotations

from pass_ops.errors import PassError


class EngineOptionError(PassError, ValueError):
    """A sampling or engine option has an unknown name or a value outside its range."""


class EngineStartError(PassError, RuntimeError):
    """The engine could not be started: a library is missing, or the model, the memory or an option does not fit."""


class EngineDead(PassError, RuntimeError):
    """The engine failed as a whole or was closed; what was asked of it has no answer. Start another (`acquire`)."""


class ChildrenDied(PassError, RuntimeError):
    """The processes of a node's engines die again and again; the message has the last lines that one wrote."""


class DeviceHeldError(PassError, RuntimeError):
    """The device has not the room that an engine or the trainer needs; the message says who holds how much."""


class EngineAsleep(PassError, RuntimeError):
    """The engine has given its device up (`Engine.sleep`); what was asked of it has no answer. Wake it first."""


class ServerUnreachable(PassError, ConnectionError):
    """A server was not reached even once: it is not up, or its URL is wrong."""


class WeightsMismatchError(PassError, ValueError):
    """`load_weights` was given a folder of another architecture; this needs another engine (`acquire` does that)."""


class RequestRejected(PassError, ValueError):
    """One request has no usable answer; set on its future. The requests beside it go on.

    reason: a short stable name that is counted per dataset (prompt_too_long, bad_token_ids, empty_prompt,
    unspelled_text, aborted, non_finite_logprob, request_failed, bad_sampling). detail: the figures. transient: True
    where the same request may succeed again.
    """

    def __init__(self, reason: str, detail: str = "", transient: bool = False) -> None:
        super().__init__(reason, detail, transient)
        self.reason = reason
        self.detail = detail
        self.transient = transient

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason

"""The published methods that are streams (docs/spec/streams.md), and how a name becomes them.

`ShapingConfig(estimator="papo")` is the configuration with these streams, and equal to it, fingerprint and all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from pass_ops.errors import OptionError
from pass_ops.options.streams import Fused, Stream, Transform

if TYPE_CHECKING:
    from pass_ops.options.config import ShapingConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Streams called process, outcome or format, whose weights are multiplied with those of `ShapingConfig.weights`.

    chunk: False where every token is a chunk of its own; None leaves the option.
    """

    streams: Mapping[str, Stream]
    fused: Fused | None = None
    chunk: bool | None = None


OUTCOME = Stream(signal="outcome")
_WHITENED = Fused(operator="masked_norm", pool="dataset", per="token")

PRESETS: dict[str, Preset] = {
    "gdpo_batch": Preset(streams={"outcome": OUTCOME, "format": Stream(signal="format")}, fused=_WHITENED),
    "reinforce_pp": Preset(streams={"outcome": replace(OUTCOME, operator="none")}, fused=_WHITENED),
    "reinforce_pp_baseline": Preset(streams={"outcome": replace(OUTCOME, operator="mean_only")}, fused=_WHITENED),
    "max_rl": Preset(streams={"outcome": replace(OUTCOME, operator="mean_normalized")}),
    "papo": Preset(streams={"outcome": OUTCOME, "process": Stream(signal="process", pool="right", gate="right")}),
    "capo": Preset(
        streams={
            "outcome": replace(OUTCOME, operator="none", weight=2.0),
            "process": Stream(signal="process", operator="none"),
        },
        fused=Fused(operator="masked_norm", per="token"),
    ),
    "vineppo": Preset(
        streams={
            "process": Stream(signal="process", operator="none", transform=(Transform("difference", start="outcome"),))
        }
    ),
    "gigpo": Preset(
        streams={
            "outcome": replace(OUTCOME, operator="mean_only"),
            "process": Stream(
                signal="process",
                operator="mean_only",
                pool="state",
                key="state",
                transform=(Transform("return_to_go", discount=0.95),),
            ),
        }
    ),
    "saf_opd": Preset(
        streams={
            "outcome": OUTCOME,
            "process": Stream(
                signal="process",
                operator="none",
                weight=0.1,
                transform=(Transform("sparsify", keep=0.2), Transform("compress", scale=1.0)),
            ),
        },
        chunk=False,
    ),
}


def expanded(config: ShapingConfig) -> dict[str, Any]:
    """The fields of `config` with the streams that its estimator's name stands for, and the estimator left at "pass".

    What streams say for themselves (signal, standardize, weights) returns to its default.

    Raises:
        OptionError: streams or fused are given besides, or every stream has weight 0.
    """
    preset = PRESETS[config.estimator]
    if config.streams is not None:
        raise OptionError(
            f"option streams: estimator {config.estimator!r} stands for streams of its own; leave one of the two out "
            "(`passrl options` and docs/reference/methods.md show the streams, to change them)"
        )
    if config.fused is not None:
        raise OptionError(
            f"option fused: estimator {config.estimator!r} stands for streams that say how their sum is standardized; "
            "leave fused out, or write the streams (docs/reference/methods.md shows them)"
        )
    streams = {
        name: replace(stream, signal=config.signal_of(stream.signal), weight=stream.weight * weight)
        for name, stream in preset.streams.items()
        if (weight := getattr(config.weights, name)) != 0.0 and isinstance(stream.weight, float)
    }
    if not streams:
        raise OptionError(
            f"option weights: estimator {config.estimator!r} shapes {' and '.join(preset.streams)}, and the weight is "
            "0, so every advantage would be 0; give it another"
        )
    defaults = {item.name: item.default for item in fields(config)}
    return {
        "streams": streams,
        "fused": preset.fused,
        "divide": False,
        "chunk": config.chunk if preset.chunk is None else preset.chunk,
        **{name: defaults[name] for name in ("estimator", "signal", "standardize", "weights")},
    }

"""tinker's own Datum takes what is exported: `make test-peers`."""

from __future__ import annotations

import numpy as np
from exported import ROWS, exported, json_rows, weights_of
from tinker import types


def test_a_row_is_a_datum(tmp_path):
    rows = json_rows(exported(tmp_path, "tinker"))
    for number, (row, (_, prompt, tokens, _, logprobs, _)) in enumerate(zip(rows, ROWS, strict=True)):
        datum = types.Datum(
            model_input=types.ModelInput(**row["model_input"]),
            loss_fn_inputs={name: types.TensorData(**given) for name, given in row["loss_fn_inputs"].items()},
        )
        inputs = {name: tensor.to_numpy() for name, tensor in datum.loss_fn_inputs.items()}
        before = [0.0] * (len(prompt) - 1)
        assert datum.model_input.to_ints() == [*prompt, *tokens][:-1]
        assert inputs["target_tokens"].tolist() == [*prompt, *tokens][1:]
        assert inputs["logprobs"].tolist() == before + logprobs
        assert inputs["advantages"].tolist() == before + weights_of(number)
        assert {name: values.dtype for name, values in inputs.items()} == {
            "target_tokens": np.int64, "logprobs": np.float32, "advantages": np.float32,
        }  # fmt: skip

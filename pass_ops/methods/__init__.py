"""Published methods that are no sum of shaped streams, one file for each family: functions of a `pass_ops.group.Group`.

    rewards   what a rollout's rewards alone give: OPO, pass@k training, GRPO-lambda
    steps     process signals: PURE, VeriGate, MRPO, PAV
    tokens    token ids and entropies: TEMPO, GTPO, entropy selection

What is a sum of streams is a preset instead (`pass_ops.presets`). docs/reference/methods.md lists all of them.
"""

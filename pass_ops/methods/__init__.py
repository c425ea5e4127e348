"""The methods that are neither PASS's own operations (`pass_ops.estimators`) nor a sum of shaped streams (presets).

    rewards    what a rollout's rewards alone give: OPO, pass@k training, GRPO-lambda
    steps      process signals: PURE, VeriGate, MRPO, PAV
    tokens     token ids and entropies: TEMPO, GTPO, entropy selection
    prime      PRIME, written as an estimator of your own would be

Each is a function of one `pass_ops.group.Group`, one file for each family; `by_group` lets such a function take many
groups of a table. Their names, options and sources stand in `pass_ops.options.published`.
"""

"""What every estimator's name stands for, and the published methods that are no sum of shaped streams.

    table      the estimators of `pass_ops.estimators`: what each reads, pools, gates and divides
    published  the methods in the files below, as docs/reference/methods.md lists them
    presets    those of them that are streams, and how a name becomes these
    rewards    what a rollout's rewards alone give: OPO, pass@k training, GRPO-lambda
    steps      process signals: PURE, VeriGate, MRPO, PAV
    tokens     token ids and entropies: TEMPO, GTPO, entropy selection

The last three hold functions of a `pass_ops.group.Group`, one file for each family.
"""

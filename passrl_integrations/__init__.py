"""PASS in trainers of others: one module each, imported by who uses that trainer (docs/how-to/keep-your-trainer.md).

    trl       a GRPOTrainer with an advantage for each token
    verl      an advantage estimator, trainers that hand it the step scores, and what a reward function returns
    slime     a reward post-process and an advantage function
    skyrl     an advantage estimator, and the rewards that carry step scores to it

Importing one of them checks the trainer's version and raises UnsupportedPeerError for another; importing this package
imports nothing.
"""

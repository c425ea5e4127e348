"""Stored rollouts as data to train on: token ids from their texts, log-probabilities by a model that is named.

`run` makes a new run of an old one; `describe` says what its rollouts are, `encode` makes the ids, `stage` does a part.
"""

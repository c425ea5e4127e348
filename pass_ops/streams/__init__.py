"""Any number of signals, each shaped in its own way, then fused, cut and divided as PASS does (docs/spec/streams.md).

each stream   reading -> transforms -> pools (operators) -> transforms -> gates
together      fusion (cells, sums, what standardizes them) -> cutting -> length division
"""

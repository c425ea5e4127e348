"""Lines of `benchmarks/bench_stage.py`, one file a stage: each has `lines(folder, quick=...)`, which yields them."""

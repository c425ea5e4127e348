"""The paper's claims at small scale: `python -m benchmarks.study --help`; docs/study/ holds results and report."""

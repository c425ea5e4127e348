"""Runs: rounds of stages from a configuration, evaluated, with their lineage."""

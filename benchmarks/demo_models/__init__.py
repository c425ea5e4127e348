"""How the models that the demo ships are made: `python -m benchmarks.demo_models.make_assets --out DIR`."""

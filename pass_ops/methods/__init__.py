"""The estimators by name: what each reads and how it forms advantages (`table`), and one file per family."""

"""Other people's rollouts as prompts, rollouts and signals of the contract: `import_rollouts`.

`record` is what every source row becomes, `formats/` has one small file a format, `spool` and `plan` put the rows of a
group together in bounded memory, `stages` writes the datasets part by part.
"""

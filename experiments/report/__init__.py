"""`RESULTS.md`, built from records of runs: `python -m experiments.report`.

- `records`: the format of a record, and records from run folders
- `plan`: the planned rows, with the paper's results and the commands that measure them
- `table`: records and plan as Markdown
- `pages`: results between the markers of other pages
"""

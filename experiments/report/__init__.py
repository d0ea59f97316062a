"""`RESULTS.md`, built from records of runs: `python -m experiments.report`.

- `records`: what a record is, and one made from run folders
- `plan`: the rows there should be, with the paper's figures and the commands that make them
- `table`: records and plan as Markdown
- `pages`: figures between the markers of other pages
"""

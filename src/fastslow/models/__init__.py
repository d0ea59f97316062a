"""Models that come with the package: a folder each, with config.json, model.safetensors and a card, README.md.

`lm.packaged` finds them by name; `models.make` makes such a folder of a trained model.
"""

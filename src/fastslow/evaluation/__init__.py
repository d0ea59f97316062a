"""Evaluation: the bits per character of models on a text."""

from fastslow.evaluation.bpc import CharProtocol, Evaluation, Scorer, evaluate

__all__ = ["CharProtocol", "Evaluation", "Scorer", "evaluate"]

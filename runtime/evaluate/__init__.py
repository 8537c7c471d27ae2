"""How well a model does on held-out data: the loss on a text, or translations of pairs."""

from .pairs import PairEvaluation, evaluate_pairs
from .text import Evaluation, evaluate, evaluate_model

__all__ = ["Evaluation", "PairEvaluation", "evaluate", "evaluate_model", "evaluate_pairs"]

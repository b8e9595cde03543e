"""Metrics of scores against labels, with their bootstrap intervals."""

from models.metrics.outputs import SUSPICIOUS_AUC, of_choice, of_probability, of_value
from models.metrics.ranking import auc

__all__ = ["SUSPICIOUS_AUC", "auc", "of_choice", "of_probability", "of_value"]

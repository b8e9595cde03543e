"""Task structures: how the logits of heads become task scores, and which label each score learns from."""

"""Training: from text pairs to a trained model's folder."""

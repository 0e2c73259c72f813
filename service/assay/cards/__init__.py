"""What a model is, declared: the card beside its weights, and where both are found."""

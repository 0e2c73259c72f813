"""From a request to an answer: targets, the one inner call, and what is said of its scores."""

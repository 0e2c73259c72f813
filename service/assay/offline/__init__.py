"""What is done to checkpoints before they are served: weights averaged, uncertainty fitted."""

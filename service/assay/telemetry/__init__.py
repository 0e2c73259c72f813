"""What Assay tells about itself: metrics and logs."""

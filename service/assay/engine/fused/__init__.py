"""A layer's elementwise parts, each by one kernel."""

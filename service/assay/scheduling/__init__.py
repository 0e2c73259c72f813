"""When work runs: admission, the queue, plans and device processes. No torch, no HTTP."""

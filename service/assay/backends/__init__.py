"""Who computes the raw outputs of items: one module a kind, all behind `backend.Backend`."""

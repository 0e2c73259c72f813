"""HTTP: routes, errors as bodies, keys. The only place that knows fastapi."""

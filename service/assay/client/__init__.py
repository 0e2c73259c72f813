"""Talking to a server: the bare install, httpx underneath."""

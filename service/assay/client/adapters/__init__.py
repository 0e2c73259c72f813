"""Rewards in the shape that trainers and search libraries call, one module each.

Nothing here imports a framework until it is used. `reward.py` has the options that all share.
"""

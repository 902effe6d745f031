"""Runs the whole service on one machine: `python -m infra.stack`.

This package describes the parts of the service; other folders only use them.
"""

"""Runs the service: `stack` starts the service on one machine without containers."""

"""Where the service runs: `stack` starts it on one machine without containers."""

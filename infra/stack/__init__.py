"""The whole service on one machine: `python -m infra.stack`. Its parts are described here; other folders only use them."""

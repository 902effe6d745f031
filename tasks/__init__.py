"""The work, without Prefect: a room for each stage, and rooms for what the stages share."""

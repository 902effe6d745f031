"""The work of the stages, without Prefect: one room for each stage, and rooms that the stages share."""

"""Prefect flows over medseg: a scheduler and a dashboard, while what is true lies on disk in run.json."""

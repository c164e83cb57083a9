"""Submit a study: `python -m flows.submit STUDY OUTPUT`, short for `prefect deployment run`."""

from __future__ import annotations

from pathlib import Path

import click
from prefect.deployments import run_deployment

from flows.forms import StudyRequest
from medseg.config import PredictConfig


@click.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--to", default="local", help="Deployment of segment-study: local (default) or gpu.")
@click.option("--model", help="Default: the shipped model that takes the scan.")
def submit(study: Path, output: Path, to: str, model: str | None) -> None:
    """Have a STUDY segmented by a worker, and print the name of the run without waiting for it."""
    request = StudyRequest(study=study.resolve(), output=output.resolve(), settings=PredictConfig(model=model))
    parameters = {"request": request.model_dump(mode="json")}
    run = run_deployment(f"segment-study/{to}", parameters=parameters, timeout=0)
    click.echo(f"{run.name}  {run.id}")


if __name__ == "__main__":
    submit()

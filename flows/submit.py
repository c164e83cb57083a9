"""`medseg submit`: have a worker segment a study; short for `prefect deployment run`.

The command is an entry point of this package's, which `medseg` lists beside its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from medseg.errors import ConfigError
from medseg.options import FILE, prediction_settings


@click.command()
@click.argument("study")
@click.argument("output", type=FILE)
@click.option("--to", default="local", show_default=True, help="Deployment of segment-study: local or gpu.")
@click.option("--server", metavar="PACS", help="STUDY is a Study Instance UID there: https:// or dicoms:// address.")
@click.option("--credentials", type=FILE, help="For the PACS, as `medseg pacs` has it; on the worker's machine.")
@click.option("--push", is_flag=True, help="Send the masks back to the PACS.")
@click.option("--reference", type=FILE, help="A label file to compare the mask with.")
@click.option("--model", metavar="NAME|FOLDER", help="Default: the shipped model that takes the scan.")
@click.option("--output-type", metavar="TYPE", help="As of predict.")
@click.option("--config", type=FILE, help="YAML in configs/predict; options win over it.")
def submit(
    study: str,
    output: Path,
    to: str,
    server: str | None,
    credentials: Path | None,
    push: bool,
    reference: Path | None,
    config: Path | None,
    **options: Any,
) -> None:
    """Have a worker of Prefect's segment a STUDY, and print the run without waiting for it.

    STUDY is a scan's file, an archive or a folder, at the same place on the
    worker's machine; with --server, the Study Instance UID.

    \b
    medseg submit scan.nii.gz results
    medseg submit 1.2.3 results --server https://pacs/dicom-web
    """
    try:
        from prefect.deployments import run_deployment
        from prefect.exceptions import ObjectNotFound
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; pip install 'medseg[flows]'.") from None
    from flows.forms import StudyRequest
    from medseg.config import validate

    content: dict[str, Any] = {
        "study": study if server else str(Path(study).resolve()),
        "output": output.resolve(),
        "reference": reference.resolve() if reference else None,
        "settings": prediction_settings(config, options),
    }
    if server:
        content["pacs"] = {"server": server, "credentials": credentials, "push": push}
    elif credentials or push:
        raise ConfigError("--credentials and --push: belong to a --server, which was not given.")
    request = validate(content, StudyRequest, where="submit").model_dump(mode="json", exclude_none=True)
    name = f"segment-study/{to}"
    try:
        run: Any = run_deployment(name, parameters={"request": request}, timeout=0)
    except ObjectNotFound:
        raise ConfigError(
            f"{name}: no such deployment; `prefect deploy --all` of flows/prefect.yaml makes it."
        ) from None
    click.echo(f"{run.name}  {run.id}")


if __name__ == "__main__":
    submit()

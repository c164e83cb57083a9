"""`medseg pacs pull|push|watch`. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from medseg.errors import BatchError, ConfigError, InputError, ServerError
from medseg.program import EXIT_CODES, complain

if TYPE_CHECKING:
    from medseg.cases import Result
    from medseg.pacs.client import Client
    from medseg.pacs.watch import Event

_FILE = click.Path(path_type=Path)
_DICOM_TYPES = ("dicom-seg", "dicom-seg-binary", "dicom-rtstruct")
_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group(epilog=EXIT_CODES)
def pacs() -> None:
    """Fetch scans from a PACS, and send results to it.

    SERVER is https://HOST/PATH (DICOMweb) or dicoms://TITLE@HOST:PORT (DIMSE);
    http:// and dicom:// are not encrypted, and never carry credentials to another
    machine. A password is asked for with --user, or read from a file.
    """


def _server_options(command: _Command) -> _Command:
    options = (
        click.argument("server"),
        click.option("--credentials", type=_FILE, help="YAML file: user and password, or token. Only yours to read."),
        click.option("--user", metavar="NAME", help="Asks for the password."),
        click.option("--ca", type=_FILE, help="Authorities to trust instead of the usual ones, PEM."),
        click.option("--cert", type=_FILE, help="Our own certificate, PEM."),
        click.option("--key", type=_FILE, help="Its key, where it is in another file."),
        click.option("--aet", default="MEDSEG", show_default=True, help="Our own AE title."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _listen_option(command: _Command) -> _Command:
    text = "Fetch by C-MOVE, with images coming in here; else C-GET."
    return click.option("--listen", metavar="[HOST:]PORT", help=text)(command)


def _which_options(command: _Command) -> _Command:
    options = (
        click.option("--study", default="", metavar="UID", help="This study only."),
        click.option("--patient-id", default="", metavar="ID", help="Studies of this patient; * and ? stand for any."),
        click.option("--accession", default="", metavar="NUMBER", help="Studies with this accession number."),
        click.option("--date", default="", metavar="DAY[-DAY]", help="Studies of these days: YYYYMMDD."),
        click.option("--modality", multiple=True, metavar="CT|MR|...", help="These series only."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@pacs.command(epilog=EXIT_CODES)
@_server_options
@_which_options
@click.option("--series", multiple=True, metavar="UID", help="These series of --study only.")
@click.option("-o", "--output", type=_FILE, required=True, help="Folder; has STUDY/SERIES/ named by hashes.")
@_listen_option
@click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout.")
@click.option("--quiet", is_flag=True, help="Errors only.")
def pull(
    study: str,
    series: tuple[str, ...],
    modality: tuple[str, ...],
    output: Path,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Fetch studies, a folder for each series.

    Says which studies by at least one of --study, --patient-id, --accession and
    --date. Folders and files are named by hashes of UIDs.

    \b
    medseg pacs pull https://pacs/dicom-web --study 1.2.3 -o scans --user me
    medseg pacs pull dicoms://PACS@host:2762 --date 20260131 -o scans
    """
    warnings.simplefilter("ignore")
    from medseg.pacs.client import Filters, check_uid
    from medseg.pacs.transfer import pull as fetch

    filters = Filters(study=study, **{name: options.pop(name) for name in ("patient_id", "accession", "date")})
    if not any(filters.query.values()):
        raise ConfigError("No study was chosen; give --study, --patient-id, --accession or --date.")
    if series and not study:
        raise ConfigError("--series: needs --study, as not every PACS finds a series without it.")
    for uid in series:
        check_uid(uid, "--series")
    client = _connect(options)
    studies = client.studies(filters)
    wanted = [one for uid in studies for one in client.series(uid)]
    wanted = [one for one in wanted if (not modality or one.modality in modality)]
    wanted = [one for one in wanted if (not series or one.series in series)]
    if not wanted:
        raise InputError("No series in the PACS is what was asked for; check UIDs, dates and your access rights.")
    content = []
    for one in wanted:
        pulled = fetch(client, one, output)
        content.append({"folder": str(pulled.folder), "modality": one.modality, "files": len(pulled.instances)})
        if not quiet and not as_json:
            click.echo(f"{pulled.folder}  ({one.modality or 'modality unknown'}, {len(pulled.instances)} files)")
    if as_json:
        click.echo(json.dumps({"series": content}))


@pacs.command(epilog=EXIT_CODES)
@_server_options
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout.")
@click.option("--quiet", is_flag=True, help="Errors only.")
def push(files: tuple[Path, ...], as_json: bool, quiet: bool, **options: Any) -> None:
    """Send DICOM files, or all that folders hold, to a PACS.

    \b
    medseg pacs push https://pacs/dicom-web out/scan_seg.dcm --credentials me.yaml
    """
    warnings.simplefilter("ignore")
    from medseg.pacs.transfer import push as send

    count = send(_connect(options), files)
    if as_json:
        click.echo(json.dumps({"files": count}))
    elif not quiet:
        click.echo(f"{count} file(s) stored")


@pacs.command(epilog=EXIT_CODES)
@_server_options
@_which_options
@click.option("-o", "--output", type=_FILE, required=True, help="Folder of results; it knows what was done.")
@click.option("--model", metavar="NAME|FOLDER", help="Default: the shipped model that takes the scan.")
@click.option("--device", metavar="gpu|gpu:N|cpu|mps", help="Default: the best there is.")
@click.option("--output-type", default=_DICOM_TYPES[0], type=click.Choice(_DICOM_TYPES), help="Of what is pushed.")
@click.option("--days", type=click.IntRange(min=0), help="Only studies of today and this many days before.")
@click.option("--stable", type=click.FloatRange(min=0), default=60, show_default=True, help="Seconds without change.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=30, show_default=True, help="Seconds between looks."
)
@click.option("--once", is_flag=True, help="End when all that is there now is done.")
@click.option("--keep-images", is_flag=True, help="Do not remove the images when their masks are pushed.")
@_listen_option
@click.option("--json", "as_json", is_flag=True, help="A line of JSON on stdout for every event.")
@click.option("--quiet", is_flag=True, help="Errors only.")
def watch(output: Path, interval: float, once: bool, as_json: bool, quiet: bool, **options: Any) -> None:
    """Segment what comes into a PACS, once, and push the masks back.

    A study is taken when it has not changed for --stable seconds; each of its
    image series that a model takes is segmented. A series to which images are
    added later is done again. What was done is kept in the output folder: the
    same folder never does a series twice, and another one starts afresh.

    \b
    medseg pacs watch https://pacs/dicom-web -o results --days 1 --user me
    medseg pacs watch dicoms://PACS@host:2762 -o results --modality MR --once
    """
    warnings.simplefilter("ignore")
    watcher = _watcher(output, options)
    count = Counter[str]()

    def say(event: Event) -> None:
        count[event.outcome] += 1
        _say(event, as_json=as_json, quiet=quiet)

    while True:
        try:
            watcher.poll(say)
        except ServerError as error:
            if once:
                raise
            complain(f"{error} Trying again in {interval:g} s.", 0)
        if once and (count["retry"] or not watcher.pending):
            break
        time.sleep(interval)
    if count["retry"]:
        raise BatchError("The PACS or the disk failed for some studies; run the same command again.")
    if count["failed"]:
        raise BatchError(f"{count['failed']} series could not be segmented; pacs.json in {output}/results tells why.")


def _watcher(output: Path, options: dict[str, Any]) -> Any:
    from medseg.case import Predictor, run_cases
    from medseg.cases import plan_cases
    from medseg.config import PredictConfig, validate
    from medseg.devices import choose_device
    from medseg.inputs import find_inputs
    from medseg.pacs.client import Filters
    from medseg.pacs.watch import Watcher

    if options["days"] is not None and options["date"]:
        raise ConfigError("--days and --date: give one of them.")
    given = {name: options.pop(name) for name in ("model", "device", "output_type")}
    settings = validate({key: value for key, value in given.items() if value}, PredictConfig, where="options")
    predictor = Predictor(settings, device=choose_device(settings.device))

    def segment(images: Path, results: Path) -> Sequence[Result]:
        cases = plan_cases(find_inputs([str(images)], channels=predictor.channels), results, settings.output_type)
        return tuple(run_cases(cases, predictor, progress=lambda case: lambda done, total: None, skip_done=True))

    return Watcher(
        folder=output,
        segment=segment,
        filters=Filters(**{name: options.pop(name) for name in ("study", "patient_id", "accession", "date")}),
        days=options.pop("days"),
        modalities=options.pop("modality"),
        stable_s=options.pop("stable"),
        keep_images=options.pop("keep_images"),
        client=_connect(options),
    )


def _say(event: Event, *, as_json: bool, quiet: bool) -> None:
    masks = [str(mask) for mask in event.masks]
    if as_json:
        content = {"series": event.series.as_posix(), "outcome": event.outcome, "masks": masks}
        click.echo(json.dumps(content | {"messages": event.messages}))
    elif not quiet:
        click.echo(f"{event.series.as_posix()}  {event.outcome}{': ' if masks else ''}{', '.join(masks)}")
    if event.outcome in {"failed", "retry"}:
        for message in event.messages:
            complain(f"{event.series.as_posix()}: {message}", 0)


def _connect(options: dict[str, Any]) -> Client:
    """The client that the options of a server describe."""
    from medseg.pacs.client import connect
    from medseg.pacs.server import Credentials, Tls, parse, read_credentials

    file, user = options["credentials"], options["user"]
    if file is not None and user is not None:
        raise ConfigError("--credentials and --user: give one of them.")
    if options["key"] is not None and options["cert"] is None:
        raise ConfigError("--key: belongs to a --cert, which was not given.")
    credentials = read_credentials(file) if file is not None else None
    wanted = {
        "tls": Tls(options["ca"], options["cert"], options["key"]),
        "own_title": options["aet"],
        "listen": options.get("listen"),
    }
    if user is not None:
        parse(options["server"], credentials=Credentials(user, "-"), **wanted)  # no password for a wrong address
        credentials = Credentials(user, click.prompt("Password", hide_input=True, err=True))
    return connect(parse(options["server"], credentials=credentials, **wanted))

"""One scan segmented as the commands do it."""

from pathlib import Path

from medseg.case import Predictor
from medseg.cases import plan_cases
from medseg.config import PredictConfig
from medseg.inputs import find_inputs


def silent(done: int, total: int) -> None:
    pass


def run(scan: Path, output: Path | None, model: Path, *, frame: int | None = None, **settings):
    predictor = Predictor(PredictConfig(model=str(model), **settings), device="cpu", frame=frame)
    inputs = find_inputs([str(scan)], channels=predictor.channels)
    (case,) = plan_cases(inputs, output, predictor.settings.output_type)
    return predictor.run(case, progress=silent, skip_done=True)

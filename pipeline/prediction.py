"""Predict photos with a checkpoint, and say how far it is."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
from obstore.fsspec import register

from infra.failure import Cause, Failure
from infra.stores import s3_options
from model.counted import counted
from model.errors import TrainingError
from pipeline.progress import Listener
from pipeline.run import staged

if TYPE_CHECKING:
    from model.predict import Summary


def predict_photos(
    path: Path,
    paths: Iterable[str],
    out: Path,
    listeners: Sequence[Listener],
    *,
    overlay: bool,
    probabilities: bool,
    flip: bool,
    window: int | None,
    device: str,
) -> "Summary":
    """Predict with the checkpoint at `path`; s3:// is read as everywhere else in this package."""
    from model.inference import Predictor
    from model.predict import predict

    register("s3")
    fsspec.config.conf["s3"] = s3_options()
    predictor, description = Predictor.load(path, device, window=window, flip=flip)
    with staged("predict", listeners) as stage:
        try:
            summary = predict(
                predictor,
                description,
                paths,
                out,
                overlay=overlay,
                probabilities=probabilities,
                report=lambda done, total: stage.report(done, total, f"{done:,}/{total:,}"),
                complain=stage.say,
            )
        except TrainingError as error:
            raise Failure(Cause(error.cause), str(error)) from None
        stage.summary = f"{counted(summary.photos, 'photo')} to {out}"
    return summary

"""Commands about what is learned: find a rate for it, predict with it, hand it on."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic_core import to_json

from infra.failure import Cause, Failure
from pipeline.cli.groups import grouped
from pipeline.cli.options import (
    Device,
    Flip,
    Json,
    Learning,
    Photos,
    Recipe,
    StoreUrl,
    Window,
    parameters_of,
)

app = typer.Typer()

Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint.pt")]


@app.command(short_help="Predict photos with a checkpoint.")
def predict(
    checkpoint: Checkpoint,
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Files, folders, globs (quoted) or URLs.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also STEM.overlay.jpg: the classes over the photo.")
    ] = False,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Also STEM.npy: every class's probability, float16 [classes, height, width].",
        ),
    ] = False,
    flip: Flip = False,
    window: Window = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Predict photos: for each a mask STEM.png with class indices, shown in VOC's colours.

    A folder is searched for photos, and its folders are kept in --out. A photo that cannot be read
    is named, the others go on, and the exit code is 1.
    """
    from pipeline.console import Terminal
    from pipeline.prediction import predict_photos

    with Terminal() as terminal:
        summary = predict_photos(
            checkpoint,
            paths,
            out,
            [terminal],
            overlay=overlay,
            probabilities=probabilities,
            flip=flip,
            window=window,
            device=device,
        )
    print(to_json(summary).decode() if json else summary.in_words())
    if summary.failures:
        raise typer.Exit(1)


@app.command(short_help="Write a checkpoint as ONNX, checked against PyTorch.")
def export(
    checkpoint: Checkpoint,
    out: Annotated[
        Path | None, typer.Option(help="The file. Default: beside it, with .onnx.")
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="Version of ONNX's operators.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Write a checkpoint as ONNX, for any batch, height and width.

    Input: float32 [N, 3, H, W], RGB from 0 to 255. Output: logits, float32 [N, classes, H, W].
    A recipe with fit=resize wants photos resized to its image_size first, and the logits back.
    """
    from model.errors import TrainingError
    from model.export import OPSET
    from model.export import export as export_checkpoint

    try:
        exported = export_checkpoint(checkpoint, out, OPSET if opset is None else opset)
    except TrainingError as error:
        raise Failure(Cause(error.cause), str(error)) from None
    print(to_json(exported).decode() if json else exported.in_words())


@app.command("lr-find", short_help="Find a learning rate, by a range test.")
@grouped
def lr_find(
    *,
    photos: Photos,
    recipe: Recipe = "voc-segmentnet",
    learning: Learning,
    low: Annotated[float, typer.Option(help="The first rate.")] = 1e-7,
    high: Annotated[float, typer.Option(help="The last rate.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Batches to train on.")] = 100,
    out: Annotated[Path, typer.Option(help="The plot, a PNG.")] = Path("lr-find.png"),
    store: StoreUrl = "",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train for a while with a rate that rises, and suggest one for --set lr=….

    Begins with the recipe's first weights and keeps none (Smith 2017, arXiv:1506.01186).
    """
    from pipeline.console import Terminal
    from pipeline.learning_rate import find_lr_on_archives

    parameters = parameters_of(photos, learning, recipe=recipe, store=store, device=device)
    with Terminal() as terminal:
        found = find_lr_on_archives(
            parameters, [terminal], low=low, high=high, steps=steps, plot=out
        )
    if json:
        print(to_json({**dict(found), "plot": out}).decode())
    else:
        print(f"{found.in_words()}\n{out}")

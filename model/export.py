"""Export a checkpoint to ONNX: one file that other runtimes predict with.

    python -m model.export CHECKPOINT [--out FILE.onnx] [--opset N] [--json]

The graph's input `photos` is float32 [N, 3, H, W], RGB from 0 to 255, for any N, H and W; its
output `logits` is float32 [N, classes, H, W]. Normalising is part of the graph. A recipe that
trains on whole photos squeezed to its image_size (`fit`) wants them resized to it first, as
OpenCV's INTER_AREA does, and the logits stretched back. The metadata say what the net is: classes,
recipe, weights digest, run. Before the file gets its name, onnxruntime runs it, and what comes out
is compared with PyTorch's.
"""

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from model.checkpoint import Description, weights_digest
from model.errors import InputError, TrainingError, disk_problem
from model.inference import Predictor
from model.loader import normalise

if TYPE_CHECKING:
    from onnxscript import ir

OPSET = 20  # of 2023: in every runtime by now
_SIZES = ((1, 64, 96), (3, 33, 71), (2, 50, 17), (1, 1, 1))  # photos, height, width
_TOLERANCE = 1e-3  # of the largest logit: fp32 sums in another order, over some fifty layers


class Exported(BaseModel):
    """What was written, and how far its logits are from PyTorch's, at most."""

    model_config = ConfigDict(frozen=True)

    onnx: Path
    bytes: int
    opset: int
    max_difference: float
    largest_logit: float
    metadata: dict[str, str]

    def in_words(self) -> str:
        """One line for a person."""
        return (
            f"{self.onnx}: {self.bytes / 1e6:.1f} MB, opset {self.opset}; at most "
            f"{self.max_difference:.1e} from PyTorch, where the largest logit is "
            f"{self.largest_logit:.2g}"
        )


class _Graph(nn.Module):
    """The net behind its normalisation: float32 [N, 3, H, W] in 0..255 to float32 logits."""

    def __init__(self, net: nn.Module, kind: str) -> None:
        super().__init__()
        self.net = net
        self.kind = kind

    def forward(self, photos: Tensor) -> Tensor:
        logits: Tensor = self.net(normalise(photos, self.kind))
        return logits.float()


def export(path: Path, out: Path | None = None, opset: int = OPSET) -> Exported:
    """Write the checkpoint at `path` as ONNX to `out`, by default beside it, `checkpoint.onnx`.

    Raises InputError for a bad checkpoint, an opset that cannot be had or packages that are not
    installed; TrainingError when the file does not compute what PyTorch does, or cannot be written.
    """
    _must_be_installed()
    predictor, description = Predictor.load(path, "cpu")
    out = out or path.with_suffix(".onnx")
    graph = _Graph(predictor.net.float(), description.recipe.normalise).eval()
    metadata = _metadata(graph.net, description)
    part = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _quiet():
            _write(graph, part, opset, metadata)
        difference, largest = _compare(graph, part)
        size = part.stat().st_size
        part.replace(out)
    except OSError as error:
        said = disk_problem(error, out.parent) or f"{out} cannot be written: {error.strerror}."
        raise TrainingError("STORE", said) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return Exported(
        onnx=out,
        bytes=size,
        opset=opset,
        max_difference=difference,
        largest_logit=largest,
        metadata=metadata,
    )


def _must_be_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"Exporting needs the package {error.name}: pip install onnx onnxruntime onnxscript."
        ) from None


def _metadata(net: nn.Module, description: Description) -> dict[str, str]:
    return {
        "classes": json.dumps(description.classes),
        "recipe": description.recipe.model_dump_json(),
        "weights_digest": weights_digest(net.state_dict()),
        "run_id": description.run_id,
    }


def _write(graph: _Graph, path: Path, opset: int, metadata: dict[str, str]) -> None:
    """Export for any batch, height and width."""
    free = torch.export.Dim.DYNAMIC
    # No side is a multiple of a net's stride, so the graph pads, and no size is 0 or 1, which
    # the exporter would take for what it always is.
    example = torch.rand(2, 3, 37, 53) * 255
    program = torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: free, 2: free, 3: free},),
        input_names=["photos"],
        output_names=["logits"],
        opset_version=opset,
        verbose=False,
    )
    assert program
    made = program.model.opset_imports[""]
    if made != opset:  # of what it cannot do the exporter only warns
        raise InputError(
            f"PyTorch cannot write this net as opset {opset}, but as {made}; leave out --opset."
        )
    _name_sizes(program.model.graph)
    for node in program.model.graph.all_nodes():  # they name the files of this computer
        node.metadata_props.clear()
    program.model.metadata_props.update(metadata)
    program.save(path)


def _name_sizes(graph: "ir.Graph") -> None:
    """Call the free sizes N, H and W, where the exporter says s5 or Min(s79, 8*((…)))."""
    from onnxscript import ir

    ends = [(value, value.shape[1]) for value in (*graph.inputs, *graph.outputs) if value.shape]
    for node in graph.all_nodes():
        for value in node.outputs:  # runtimes work out for themselves what is inside
            value.shape = None
    for value, channels in ends:
        value.shape = ir.Shape(["N", channels, "H", "W"])


def _compare(graph: _Graph, path: Path) -> tuple[float, float]:
    """Run the file on photos of several sizes: its largest difference to PyTorch, largest logit."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    random = torch.Generator().manual_seed(0)
    difference = largest = 0.0
    for number, height, width in _SIZES:
        photos = torch.rand(number, 3, height, width, generator=random) * 255
        with torch.inference_mode():
            expected = graph(photos)
        (logits,) = session.run(None, {"photos": photos.numpy()})
        if logits.shape != tuple(expected.shape):
            raise TrainingError("INTERNAL", f"ONNX gives {logits.shape} for {tuple(photos.shape)}.")
        apart = float((torch.from_numpy(logits) - expected).abs().max())
        difference = max(apart, difference)  # in this order, as a NaN must stay one
        largest = max(largest, float(expected.abs().max()))
    if not difference <= _TOLERANCE * largest + 1e-6:
        raise TrainingError(
            "INTERNAL",
            f"The exported net's logits are up to {difference:.2g} from PyTorch's (the largest is "
            f"{largest:.2g}), so it was not kept; try another --opset.",
        )
    return difference, largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporter prints, logs and warns of on its way; its errors are raised."""
    with Path(os.devnull).open("w") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        disabled = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            with redirect_stdout(nowhere), redirect_stderr(nowhere):
                yield
        finally:
            logging.disable(disabled)


def main() -> int:
    """Command line; 0 done, 1 the file could not be made as it must be, 2 wrong input."""
    parser = argparse.ArgumentParser(
        prog="python -m model.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint.pt")
    parser.add_argument("--out", type=Path, help="default: beside it, with .onnx")
    parser.add_argument("--opset", type=int, default=OPSET, help="of ONNX (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    try:
        exported = export(args.checkpoint, args.out, args.opset)
    except (InputError, TrainingError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    print(exported.model_dump_json() if args.json else exported.in_words())
    return 0


if __name__ == "__main__":
    sys.exit(main())

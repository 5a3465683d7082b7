"""Predict photos: a mask of each, in colours that any viewer shows.

    python -m model.predict CHECKPOINT PATH… --out DIR [--overlay] [--probabilities] [--json]

A PATH is a file, a folder, a glob or a URL. For each photo DIR holds, in the photo's own size and
below the photo's own folder:

    STEM.png          class indices as a palette PNG in VOC's colours
    STEM.overlay.jpg  with --overlay: the classes over the photo
    STEM.npy          with --probabilities: float16 [classes, height, width], their softmax

Photos are read and results written in threads beside the net, a few at a time, so a million photos
take no more memory than ten. Without a GPU a few small ones are predicted at a time, too. What was
there already is overwritten; what is there is whole.
"""

import argparse
import errno
import io
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from pydantic import BaseModel, ConfigDict

from model.checkpoint import Description
from model.device import default_threads, is_out_of_memory, usable_cores
from model.errors import InputError, TrainingError, disk_problem
from model.images import Image, encode_jpeg
from model.inference import Predictor
from model.journal import write_atomically
from model.palette import colourise, voc_palette
from model.photos import Found, Photos, read_photo

_AHEAD = 4  # photos being read, predicted and written at a time, of each so many
_THREADS = 2  # that read, and as many that write
_LARGE = 1 << 18  # pixels from which on a photo has the memory for itself, or shares it with small
_NAMED = 1000  # failed photos that the summary names; the others it counts
# What is wrong with one name alone, the others can still be written.
_OF_THIS_NAME = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ)
_OPACITY = 0.5  # of a class over the photo; its rim is solid

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


class Summary(BaseModel):
    """What came of it; `shares` is each class's part of all pixels."""

    model_config = ConfigDict(frozen=True)

    photos: int  # that were predicted
    failures: int  # photos that could not be
    failed: tuple[str, ...]  # the names of those, of the first thousand at most
    out: Path
    seconds: float
    shares: dict[str, float]

    def in_words(self) -> str:
        """One line for a person, and one for the classes that were seen."""
        speed = f", {self.photos / self.seconds:.1f} images/s" if self.seconds else ""
        photos = f"{self.photos:,} photo{'' if self.photos == 1 else 's'}"
        lines = [f"{photos} in {self.seconds:.1f} s{speed}: {self.out}"]
        if self.failures:
            lines[0] += f"; {self.failures:,} could not be predicted"
        seen = sorted(((s, name) for name, s in self.shares.items() if s), reverse=True)
        lines.append(", ".join(f"{name} {share:.1%}" for share, name in seen))
        return "\n".join(line for line in lines if line)


class _Prediction(NamedTuple):
    photo: Image
    mask: Image
    probabilities: npt.NDArray[np.float16] | None


def predict(
    predictor: Predictor,
    description: Description,
    paths: Iterable[str],
    out: Path,
    *,
    overlay: bool = False,
    probabilities: bool = False,
    report: Callable[[int, int], None] | None = None,
    complain: Callable[[str], None] = lambda _: None,
) -> Summary:
    """Predict every photo that `paths` name (see `Photos`) into the folder `out`.

    `report` hears (done, total); `complain` hears what is wrong with a photo, and the others go on.
    Raises InputError when there is no photo, TrainingError when the disk takes no more.
    """
    paths = list(paths)
    photos = Photos(paths, out)
    total = photos.count()
    if not total:
        shown = ", ".join(paths[:3]) + ", …" * (len(paths) > 3)
        raise InputError(f"There is no photo in {shown}; folders are searched by suffix.")
    began = time.perf_counter()
    pixels = np.zeros(len(description.classes), np.int64)
    failed: list[str] = []
    good = failures = 0
    alone = Lock()

    def predicted(item: tuple[Found, "Future[Image]"]) -> _Prediction | InputError:
        found, reading = item
        try:
            photo = reading.result()
            with alone if photo[..., 0].size >= _LARGE else nullcontext():
                return _predicted(predictor, photo, probabilities)
        except InputError as error:
            return error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return _too_large(found, predictor)

    def written(item: tuple[Found, "Future[_Prediction | InputError]"]) -> _Prediction | InputError:
        found, made = item[0], item[1].result()
        try:
            if isinstance(made, _Prediction):
                _write(out / found.target, made, overlay)
        except OSError as error:
            if error.errno not in _OF_THIS_NAME:
                raise
            return InputError(f"{found.name} has results that cannot be named ({error.strerror}).")
        return made

    at_a_time = min(_AHEAD, usable_cores()) if predictor.device.type == "cpu" else 1
    with (
        _threads_each(at_a_time),
        _pools(_THREADS, at_a_time, _THREADS) as (readers, nets, writers),
    ):
        reads = _ahead(readers, read_photo, photos)
        made = ((found, making) for (found, _), making in _ahead(nets, predicted, reads, at_a_time))
        for done, ((found, _), writing) in enumerate(_ahead(writers, written, made), 1):
            try:
                result = writing.result()
            except OSError as error:
                said = disk_problem(error, out) or f"{out} cannot be written: {error.strerror}."
                raise TrainingError("STORE", said) from None
            if isinstance(result, InputError):
                failures += 1
                failed += [found.name] if failures <= _NAMED else []
                complain(str(result))
            else:
                good += 1
                pixels += np.bincount(result.mask.ravel(), minlength=len(pixels))
            if report:
                report(done, total)
    shares = pixels / max(1, pixels.sum())
    return Summary(
        photos=good,
        failures=failures,
        failed=tuple(failed),
        out=out,
        seconds=time.perf_counter() - began,
        shares=dict(zip(description.classes, shares.tolist(), strict=True)),
    )


def _predicted(predictor: Predictor, photo: Image, probabilities: bool) -> _Prediction:
    logits = predictor.logits(photo)
    mask = logits.argmax(0).to(torch.uint8).cpu().numpy()
    scores = logits.softmax(0).half().cpu().numpy() if probabilities else None
    return _Prediction(photo, mask, scores)


def _too_large(found: Found, predictor: Predictor) -> InputError:
    """What to do about a photo that does not fit."""
    if predictor.recipe.fit == "resize":  # which takes no window
        cure = "scale it down"
    elif predictor.window is None:
        cure = f"set a --window, such as {max(predictor.recipe.image_size)}"
    else:
        cure = "set a smaller --window"
    return InputError(f"{found.name} is too large for the memory; {cure}.")


def _write(target: Path, made: _Prediction, overlay: bool) -> None:
    """Everything about one photo; OSError leaves nothing that is not whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    outputs = {".png": palette_png(made.mask)}
    if overlay:
        outputs[".overlay.jpg"] = encode_jpeg(painted(made.photo, made.mask), quality=90)
    if made.probabilities is not None:
        file = io.BytesIO()
        np.save(file, made.probabilities)
        outputs[".npy"] = file.getvalue()
    for suffix, data in outputs.items():
        path = target.with_name(target.name + suffix)
        try:
            write_atomically(path, data)
        except OSError:
            path.with_name(f".{path.name}.part").unlink(missing_ok=True)
            raise


def palette_png(mask: Image) -> bytes:
    """Class indices uint8 [H, W] as a PNG that holds them, and shows them in VOC's colours."""
    picture = PIL.Image.fromarray(mask, "L")
    picture.putpalette(voc_palette().tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def painted(photo: Image, mask: Image) -> Image:
    """The photo, uint8 [H, W, 3], under the colours of all classes but class 0, the background."""
    opacity = np.where(mask > 0, np.float32(_OPACITY), np.float32(0))
    # A rim keeps touching objects apart, and is seen where a class has a colour of the photo.
    side = max(3, round(max(mask.shape) / 300) | 1)
    rim = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((side, side), np.uint8)) > 0
    opacity[rim & (mask > 0)] = 1
    blended = photo + (colourise(mask).astype(np.float32) - photo) * opacity[..., None]
    return np.rint(blended).astype(np.uint8)


@contextmanager
def _threads_each(nets: int) -> Iterator[None]:
    """Share the cores among so many nets that compute at the same time, and who feeds them."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, default_threads() // nets))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _pools(*threads: int) -> Iterator[list[ThreadPoolExecutor]]:
    """Pools of so many threads, which on leaving end what they are at, and begin nothing more."""
    pools = [ThreadPoolExecutor(number) for number in threads]
    try:
        yield pools
    finally:
        for pool in pools:  # all of them before one is waited for, as they wait for each other
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in pools:
            pool.shutdown()


def _ahead(
    pool: ThreadPoolExecutor,
    work: Callable[[_Item], _Made],
    items: Iterable[_Item],
    most: int = _AHEAD,
) -> Iterator[tuple[_Item, "Future[_Made]"]]:
    """Each item with its work, in their order; no more than `most` are worked on in advance."""
    waiting: deque[tuple[_Item, Future[_Made]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(work, item)))
        if len(waiting) > most:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def main() -> int:
    """Command line; 0 done, 1 not every photo, 2 wrong input, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m model.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint.pt")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="file, folder, glob or URL")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--overlay", action="store_true", help="also the classes over the photo")
    parser.add_argument("--probabilities", action="store_true", help="also every class's, as .npy")
    parser.add_argument("--flip", action="store_true", help="average with the mirror image")
    parser.add_argument("--window", type=int, help="predict in windows of so many pixels")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    args = parser.parse_args()
    on_terminal = sys.stderr.isatty()

    def count(done: int, total: int) -> None:
        if on_terminal:
            print(f"\r{done:,} of {total:,}", end="" if done < total else "\n", file=sys.stderr)

    try:
        predictor, description = Predictor.load(
            args.checkpoint, args.device, window=args.window, flip=args.flip
        )
        summary = predict(
            predictor,
            description,
            args.paths,
            args.out,
            overlay=args.overlay,
            probabilities=args.probabilities,
            report=count,
            complain=lambda said: print(f"\r{said}" if on_terminal else said, file=sys.stderr),
        )
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except TrainingError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; what is written is whole.", file=sys.stderr)
        return 130
    print(summary.model_dump_json() if args.json else summary.in_words())
    return 1 if summary.failures else 0


if __name__ == "__main__":
    sys.exit(main())

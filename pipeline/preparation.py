"""From archives to a dataset: the first three stages, for a run and for an evaluation alike.

What one stage does works inside it, where somebody may be watching, and fills in how it went.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from infra.stores import Store
from model.counted import counted
from model.errors import InputError
from model.manifest import Manifest
from pipeline.archive import Archive
from pipeline.dataset import dataset_prefix, is_whole
from pipeline.download.spool import Room
from pipeline.parameters import Parameters
from pipeline.progress import Listener
from pipeline.run import Run, Stage, staged
from pipeline.spread import Spread
from pipeline.stages.build_dataset import build_dataset
from pipeline.stages.extract import extract
from pipeline.stages.separate import Separation, separate

WEIGHTS_MIRROR = "VOC_TRAIN_WEIGHTS_URL"  # as `model/pretrained.py` has it
TO_TRAIN = ("train", "val")  # splits without which there is no training


def must_be_trainable(parameters: Parameters) -> None:
    """InputError for a recipe whose net cannot be built or trained, before anything is begun."""
    import torch

    from model import nets

    recipe = parameters.resolved_recipe()
    with torch.device("meta"):  # no memory, no time
        net = nets.build_net(recipe, len(parameters.classes))
    nets.must_be_trainable(net, recipe, recipe.batch_size)
    mirror = weights_url(parameters)
    if mirror and parameters.machine != "local" and not mirror.startswith(("http://", "https://")):
        raise InputError(
            f"{WEIGHTS_MIRROR} names a folder of this computer, which the machine that trains does "
            "not see; give it an http URL, or unset it, and the weights are fetched from PyTorch."
        )


def weights_url(parameters: Parameters) -> str | None:
    """Where the pretrained weights are, if the recipe begins with any and it is not as usual."""
    wanted = parameters.resolved_recipe().pretrained
    return (os.environ.get(WEIGHTS_MIRROR) or None) if wanted else None


def prepared_earlier(run: Run, store: Store) -> tuple[Manifest, dict[str, str]] | None:
    """The dataset of the run that this one goes on with, and its archives' sources.

    None where that had none yet, or the store has it no more.
    """
    if run.earlier is None or run.earlier.dataset is None:
        return None
    key = f"{dataset_prefix(run.earlier.dataset)}/manifest.json"
    dataset = store.read(key, Manifest)
    if dataset is None or not is_whole(dataset, store):
        return None
    return dataset, run.earlier.sources


def prepare_dataset(
    parameters: Parameters,
    store: Store,
    spool: Path,
    listeners: Sequence[Listener],
    *,
    needed: tuple[str, ...],
) -> tuple[Manifest, list[Archive]]:
    """All three stages: the dataset in the store, with no split empty that is `needed`."""
    with staged("extract", listeners) as stage:
        archives = extract_archives(parameters, store, spool, stage)
    with staged("separate", listeners) as stage:
        separation = separate_pairs(archives, parameters, store, spool, stage, needed=needed)
    with staged("build-dataset", listeners) as stage:
        dataset = build_shards(separation, archives, parameters, store, spool, stage, needed=needed)
    return dataset, archives


def extract_archives(
    parameters: Parameters, store: Store, spool: Path, stage: Stage, spread: Spread | None = None
) -> list[Archive]:
    """Bring every archive to where its photos can be read by offset."""
    urls, room = parameters.archives, Room(parameters.limits.archive_bytes)
    if spread:
        there: dict[str, tuple[Archive, bool]] = {}
        for url, came in spread("extract-archive", partial(_extract_there, store, room), urls):
            there[url] = came
            stage.report(len(there), len(urls))
        found = [there[url] for url in urls]
    else:
        found = [extract(url, store, spool, room=room, report=stage.report) for url in urls]
    archives = [archive for archive, _ in found]
    stage.reused = all(reused for _, reused in found)
    size = sum(archive.size for archive in archives) / 1e6
    members = sum(archive.members for archive in archives)
    stage.summary = (
        f"{counted(len(archives), 'archive')}, {size:,.1f} MB, {counted(members, 'file')}"
    )
    return archives


def _extract_there(store: Store, room: Room, url: str, spool: Path) -> tuple[Archive, bool]:
    return extract(url, store, spool, room=room)


def separate_pairs(
    archives: list[Archive],
    parameters: Parameters,
    store: Store,
    spool: Path,
    stage: Stage,
    *,
    needed: tuple[str, ...],
) -> Separation:
    """Find the photos with masks, and split them; no split that is `needed` may be empty."""
    separation, stage.reused = separate(
        archives,
        store,
        spool,
        layout=parameters.layout,
        skip_missing=parameters.skip_missing,
        needed=needed,
        report=stage.report,
    )
    counts = [f"{separation.count(s):,} {s}" for s in ("train", "val", "test")]
    left_out = [f"{n:,} {why}" for why, n in separation.left_out().items() if n]
    stage.summary = ", ".join(counts) + (f"; left out: {', '.join(left_out)}" * bool(left_out))
    return separation


def build_shards(
    separation: Separation,
    archives: list[Archive],
    parameters: Parameters,
    store: Store,
    spool: Path,
    stage: Stage,
    spread: Spread | None = None,
    *,
    needed: tuple[str, ...],
) -> Manifest:
    """Turn the pairs into shards in the store; no split that is `needed` may be all void."""
    dataset, stage.reused = build_dataset(
        separation,
        archives,
        store,
        spool,
        classes=parameters.classes,
        mask_values=parameters.layout.mask_values,
        max_side=parameters.max_side,
        max_pixels=parameters.limits.photo_pixels,
        shard_bytes=parameters.limits.shard_bytes,
        needed=needed,
        spread=spread,
        report=stage.report,
    )
    size = sum(shard.size for shard in dataset.shards) / 1e6
    stage.summary = (
        f"{counted(sum(dataset.counts.values()), 'sample')}, "
        f"{counted(len(dataset.shards), 'shard')}, {size:,.1f} MB, digest {dataset.digest[:12]}"
    )
    return dataset

"""The flow `voc-train`: extract, separate, build-dataset, train, fetch-checkpoint.

The whole story of a run stands in `voc_train` below. Each stage is a Prefect task around a plain
function from `pipeline/stages/`; nothing that matters is kept by Prefect alone, since a killed
process leaves Prefect's states behind as they were.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from infra.machines import LocalMachine
from infra.protocol import run_key
from model.dataset import Dataset, Manifest
from pipeline import artifacts, preparation
from pipeline.archive import Archive
from pipeline.dataset import local_dataset
from pipeline.parameters import Parameters, home
from pipeline.pictures import Picture, overview_png
from pipeline.progress import listening
from pipeline.report import render_report
from pipeline.run import Outcome, Run
from pipeline.stages.fetch_checkpoint import evaluate_again, fetch_checkpoint, must_pass_gate
from pipeline.stages.separate import Separation
from pipeline.stages.train import job_for, train

if TYPE_CHECKING:
    from model.checkpoint import CheckpointManifest
    from model.evaluate import Evaluation


_NEEDED = ("train", "val")  # splits without which there is no training


@flow(name="voc-train", flow_run_name="{parameters.recipe}", validate_parameters=True)
def voc_train(parameters: Parameters) -> Outcome:
    """Train a segmentation net on an archive of photos and masks, and bring the checkpoint home."""
    run = Run(parameters, [artifacts.PrefectListener(), *listening.get()])
    with run.recorded():
        must_have_device(parameters.device)  # rather now than after an hour of preparation
        archives = extract_archives(run)
        separation = separate_pairs(run, archives)
        dataset = build_shards(run, separation, archives)
        train_net(run, dataset)
        checkpoint, evaluation, folder = fetch_best(run, dataset)
        report = write_report(run, archives, folder, checkpoint, evaluation)
        run.outcome = Outcome(
            run_id=run.run_id,
            checkpoint=str(run.folder / "checkpoint.pt"),
            sha256=checkpoint.sha256,
            weights_digest=checkpoint.weights_digest,
            miou=evaluation.score.miou,
            report=report,
            seconds={stage.name: round(stage.seconds, 3) for stage in run.stages},
            reused=tuple(stage.name for stage in run.stages if stage.reused),
        )
        artifacts.summarise(run.outcome, run.stages, evaluation.score)
        must_pass_gate(checkpoint.recipe, evaluation.score.miou, report)
    return run.outcome


def must_have_device(device: str) -> None:
    """Raise InputError when this computer lacks the device that was asked for."""
    if device not in ("auto", "cpu"):  # the import takes seconds
        from model.device import pick_device

        pick_device(device)


@task(name="extract", cache_policy=NO_CACHE)
def extract_archives(run: Run) -> list[Archive]:
    """Bring every archive to where its photos can be read by offset."""
    with run.stage("extract") as stage:
        return preparation.extract_archives(run.parameters, run.store, run.spool, stage)


@task(name="separate", cache_policy=NO_CACHE)
def separate_pairs(run: Run, archives: list[Archive]) -> Separation:
    """Find the photos with masks, and split them into train, val and test."""
    with run.stage("separate") as stage:
        return preparation.separate_pairs(
            archives, run.parameters, run.store, run.spool, stage, needed=_NEEDED
        )


@task(name="build-dataset", cache_policy=NO_CACHE)
def build_shards(run: Run, separation: Separation, archives: list[Archive]) -> Manifest:
    """Turn the pairs into shards of photos and class indices in the store."""
    with run.stage("build-dataset") as stage:
        dataset = preparation.build_shards(
            separation, archives, run.parameters, run.store, run.spool, stage, needed=_NEEDED
        )
        run.dataset = dataset.key
    return dataset


@task(name="train", cache_policy=NO_CACHE)
def train_net(run: Run, dataset: Manifest) -> None:
    """Train on a machine, through its agent; whatever happens, nothing is left running."""
    with run.stage("train") as stage:
        parameters = run.parameters
        job = job_for(
            run.run_id,
            parameters.resolved_recipe(),
            dataset,
            run.store,
            device=parameters.device,
            workers=parameters.workers,
            wandb=parameters.wandb,
            deadline_seconds=parameters.limits.train_hours * 3600,
        )
        machine = LocalMachine(run.job_folder)
        result = train(job, run.store, machine, report=stage.report, say=stage.say)
        stage.summary = f"{(result.ended - result.started).total_seconds():.0f} s on this computer"


@task(name="fetch-checkpoint", cache_policy=NO_CACHE)
def fetch_best(run: Run, dataset: Manifest) -> "tuple[CheckpointManifest, Evaluation, Path]":
    """Bring the best checkpoint home and score it again, on the dataset's verified folder here."""
    with run.stage("fetch-checkpoint") as stage:
        checkpoint = fetch_checkpoint(run.run_id, run.store, run.folder)
        folder = local_dataset(dataset, run.store, home() / "datasets")
        evaluation = evaluate_again(
            checkpoint, run.folder, folder, device=run.parameters.device, report=stage.report
        )
        stage.summary = (
            f"step {checkpoint.step}, mIoU {evaluation.score.miou:.4f} on "
            f"{evaluation.score.images:,} images, as in training"
        )
    return checkpoint, evaluation, folder


def write_report(
    run: Run,
    archives: list[Archive],
    dataset: Path,
    checkpoint: "CheckpointManifest",
    evaluation: "Evaluation",
) -> str:
    """Write the report to the store and beside the checkpoint; returns its path here."""
    val = Dataset(dataset, "val")
    pictures = [
        Picture(*val[position], prediction)
        for position, prediction in sorted(evaluation.predictions.items())
    ]
    html = render_report(
        run_id=run.run_id,
        checkpoint=checkpoint,
        score=evaluation.score,
        records=run.metrics(),
        pictures=pictures,
        stages=run.stages,
        left_out=val.manifest.left_out,
        counts=val.manifest.counts,
        sources={archive.sha256: archive.source for archive in archives},
        max_side=val.manifest.max_side,
    ).encode()
    run.store.put(run_key(run.run_id, "report.html"), html)
    report = run.folder / "report.html"
    report.write_bytes(html)
    artifacts.show_samples(overview_png(pictures, val.manifest.classes))
    return str(report)

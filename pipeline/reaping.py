"""The flow `reaper`: what `voc-train reap --delete` does, for Prefect to do every ten minutes."""

from prefect import flow
from prefect.logging import get_run_logger

from infra.clock import Clock
from infra.failure import Cause, Failure
from infra.linode import Linode
from infra.reaper import reap
from infra.reaper_report import ReaperReport
from infra.stores import Store
from infra.visit import access_to
from pipeline import artifacts
from pipeline.messenger import look_before, tell_of_leak
from pipeline.parameters import default_store
from pipeline.run import new_run_id


# What has just been deleted may be listed for some seconds: a second look tells what lingers.
@flow(name="reaper", retries=1, retry_delay_seconds=60)
def reaper(store: str = "") -> None:
    """Delete whatever of ours is past its deadline; `store` is the worker's unless given.

    Raises:
        Failure: something is still there, or provider or store could not be asked.
    """
    clock = Clock.from_environment()
    url = store or default_store()
    say = get_run_logger().info
    with access_to(url, new_run_id(), clock):
        provider = Linode.from_environment(clock)
        where = Store.open(url)
        before = look_before(where)
        report = reap(provider, where, clock, delete=True, say=say)
        tell_of_leak(where, report, before)
    if report.found or report.unseen:
        artifacts.show_reaped(report)
    if not report.clean:
        raise Failure(Cause.LEAKED, _what_may_be_left(report))


def _what_may_be_left(report: ReaperReport) -> str:
    left = [
        f"{found.kind} {found.label} (id {found.id}, ${found.dollars_per_hour or 0:.2f} an hour) "
        f"is past its deadline and not gone: {found.said or 'it is still listed.'}"
        for found in report.expired
    ]
    left += [f"Could not look after every {kind}: {why}" for kind, why in report.unseen.items()]
    return " ".join([*left, "The next look asks again; `voc-train reap --delete` does at once."])

"""Messages to a person, through any service that Apprise knows; VOC_TRAIN_NOTIFY says which.

Its URLs hold secrets, and Apprise logs what it sends. So it works in a process of its own, which
takes the URLs from the environment and the message from its input, and prints only the names of
services. What hangs is killed: no run fails or waits for long because nobody could be told.

    python -m infra.notifications            sends what it reads, as JSON
    python -m infra.notifications --check    says what the URLs name, and sends nothing
"""

import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

VARIABLE = "VOC_TRAIN_NOTIFY"
_SECONDS = 15.0  # for all of it; a service usually answers within one
_LOG = logging.getLogger(__name__)


class Delivery(NamedTuple):
    """Which services took a message, and which did not: by name and, of several, by place."""

    took: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()  # places of URLs that Apprise does not understand
    late: bool = False  # whether no answer came in time

    @property
    def said(self) -> str:
        """What is wrong, in words; "" for nothing."""
        wrong = []
        if self.failed:
            wrong.append(f"{', '.join(self.failed)} did not take the message")
        if self.unknown:
            wrong.append(f"{', '.join(self.unknown)} is none of Apprise's")
        if self.late:
            wrong.append(f"no answer came within {_SECONDS:.0f} s")
        return "; ".join(wrong)


def wanted() -> bool:
    """Whether anybody is to be told."""
    return bool(os.environ.get(VARIABLE, "").strip())


def notify(title: str, body: str, *, urgent: bool = False) -> None:
    """Tell whoever VOC_TRAIN_NOTIFY names; never raises, and waits 15 seconds at the most."""
    if not wanted():
        return
    try:
        said = deliver(title, body, urgent=urgent).said
    except Exception as error:  # its text may show what nobody should see
        said = type(error).__name__
    if said:
        _LOG.warning("%s: nobody may have heard %r: %s", VARIABLE, title, said)


def deliver(title: str, body: str, *, urgent: bool = False) -> Delivery:
    """Send a message, and say what became of it. Raises OSError where nothing can be started."""
    return _child({"title": title, "body": body or title, "urgent": urgent})


def check() -> Delivery:
    """What the URLs name, as if they had taken a message; nothing is sent."""
    return _child(None)


def _child(message: dict[str, object] | None) -> Delivery:
    command = [sys.executable, "-m", __name__, *(["--check"] if message is None else [])]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(message),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=_SECONDS,
            check=True,
            start_new_session=True,  # a Ctrl-C is no reason to be silent about it
        )
    except subprocess.TimeoutExpired:
        return Delivery(late=True)
    took, failed, unknown = json.loads(done.stdout)
    return Delivery(tuple(took), tuple(failed), tuple(unknown))


def _main() -> None:
    """The process that has to do with Apprise."""
    from apprise import Apprise, NotifyBase, NotifyType
    from apprise.utils.parse import parse_urls

    # With spaces or commas between several.
    urls: list[str] = parse_urls(os.environ[VARIABLE])  # type: ignore[no-untyped-call]
    found = {_place(n, len(urls)): Apprise.instantiate(url) for n, url in enumerate(urls, 1)}
    known = {place: one for place, one in found.items() if isinstance(one, NotifyBase)}
    services = list(known.values())
    names = [
        f"{one.service_name} ({place})" if urls[1:] else str(one.service_name)
        for place, one in known.items()
    ]
    message = json.load(sys.stdin)
    if message is None:
        heard = [True] * len(services)
    else:
        kind = NotifyType.FAILURE if message["urgent"] else NotifyType.INFO

        def send(service: NotifyBase) -> bool:
            one = Apprise()
            one.add(service)
            return bool(one.notify(body=message["body"], title=message["title"], notify_type=kind))

        with ThreadPoolExecutor(max(1, len(services))) as pool:
            heard = list(pool.map(send, services))
    took = [name for name, ok in zip(names, heard, strict=True) if ok]
    failed = [name for name, ok in zip(names, heard, strict=True) if not ok]
    print(json.dumps([took, failed, [place for place in found if place not in known]]))


def _place(number: int, count: int) -> str:
    """Which URL it is: of itself nothing may be shown."""
    return f"URL {number} of {count}" if count > 1 else "the URL"


if __name__ == "__main__":
    _main()

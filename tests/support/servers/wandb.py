"""As much of Weights & Biases' server as its library needs to fill a run, on loopback.

It keeps the rules that are hard to live with: what is sent of a run comes after what is there, also
where it was opened without being resumed; an alias is borne by one version of an artifact at a
time; the same files make no second version; and a key that is not known is refused with 401.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from servers.web import Served

KEY = "0123456789" * 4  # of the form of a key, and nobody's
ENTITY = "somebody"


@dataclass
class Bucket:
    """A run, as the server calls it."""

    name: str
    project: str
    display: str = ""
    group: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)  # of the files that are streamed
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None
    received: int = 0  # lines of history, those sent again included

    def rows(self) -> dict[int, dict[str, Any]]:
        """What was logged, by step."""
        rows = [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]
        steps = [row["_step"] for row in rows]
        assert steps == sorted(set(steps)), f"steps out of order, or twice: {steps}"
        return {row["_step"]: row for row in rows}

    @property
    def summary(self) -> dict[str, Any]:
        lines = self.lines.get("wandb-summary.json")
        return dict(json.loads(lines[-1])) if lines else {}

    def settings(self) -> dict[str, Any]:
        """The config without the library's own."""
        return {key: one["value"] for key, one in self.config.items() if key != "_wandb"}


@dataclass
class Version:
    """Of an artifact."""

    id: str
    digest: str
    kind: str
    metadata: dict[str, Any]
    aliases: set[str] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)
    manifest: bytes = b""
    committed: bool = False


class WandbServer(Served):
    """Answers, refuses and keeps; ask it what it has."""

    def __init__(self) -> None:
        super().__init__(_handler(self))
        self.runs: dict[str, Bucket] = {}
        self.artifacts: dict[str, list[Version]] = {}
        self.refused = 0
        self.faults: list[str] = []  # what this server could not do, or must not be asked
        self._refusals: list[tuple[str, int, int]] = []
        self._lock = threading.Lock()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        assert not self.faults, self.faults

    def refuse(self, part: str, status: int, times: int) -> None:
        """Answer the next requests for a path with that `part` with an error's status."""
        self._refusals.append((part, status, times))

    def with_alias(self, alias: str) -> list[Version]:
        return [v for all_ in self.artifacts.values() for v in all_ if alias in v.aliases]

    def answer(self, path: str, key: str, body: bytes) -> tuple[int, Any]:
        """Status and answer of one request."""
        with self._lock:
            if path.startswith("/sdk/"):
                return 200, {}  # its telemetry
            for position, (part, status, times) in enumerate(self._refusals):
                if part in path and times:
                    self._refusals[position] = part, status, times - 1
                    self.refused += 1
                    return status, {"error": "not now"}
            if path.startswith("/storage/"):
                return self._stored(path, body)
            if key != KEY:
                return 401, {"errors": [{"message": "user is not logged in"}]}
            if path == "/graphql":
                asked = json.loads(body)
                return 200, {"data": self._graphql(asked["query"], asked.get("variables") or {})}
            if found := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
                return 200, self._streamed(self.runs[found[1]], json.loads(body))
            return 404, {"error": f"no {path}"}

    def _stored(self, path: str, body: bytes) -> tuple[int, Any]:
        _, _, kind, owner, name = path.split("/", 4)
        if kind == "run":
            self.runs[owner].files[name] = body
        elif kind == "artifact":
            self._version(owner).files[name] = body
        else:
            self._version(owner).manifest = body
        return 200, {}

    def _streamed(self, run: Bucket, said: dict[str, Any]) -> dict[str, Any]:
        for name, chunk in (said.get("files") or {}).items():
            lines = run.lines.setdefault(name, [])
            lines[chunk["offset"] :] = chunk["content"]
            if name == "wandb-history.jsonl":
                run.received += len(chunk["content"])
        if said.get("complete"):
            run.exit_code = said.get("exitcode")
        return {"limits": {}}

    def _graphql(self, query: str, said: dict[str, Any]) -> Any:
        for operation, answered in _OPERATIONS.items():
            if re.search(rf"\b{operation}\b", query):
                return answered(self, said)
        raise AssertionError(f"W&B's library asks what this server does not know: {query}")

    def _version(self, identifier: str) -> Version:
        return next(v for all_ in self.artifacts.values() for v in all_ if v.id == identifier)

    def _upsert(self, said: dict[str, Any]) -> Any:
        name = said["name"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Bucket(name, said["project"]))
        run.config = json.loads(said["config"]) if said["config"] else run.config
        run.display = said["displayName"] or run.display
        run.group = said["groupName"] or run.group
        return {"upsertBucket": {"bucket": _bucket(run), "inserted": inserted}}

    def _rewind(self, said: dict[str, Any]) -> Any:
        """Rows after a step are forgotten; it must be one that there is."""
        run = self.runs[said["runName"]]
        step = int(said["metricValue"])
        assert step in run.rows(), f"there is no step {step} to go back to"
        lines = run.lines["wandb-history.jsonl"]
        run.lines["wandb-history.jsonl"] = [
            one for one in lines if json.loads(one)["_step"] <= step
        ]
        rewound = _bucket(run) | {"config": json.dumps(run.config)}
        return {"rewindRun": {"rewoundRun": rewound}}

    def _resume(self, said: dict[str, Any]) -> Any:
        run = self.runs.get(said["name"])
        if run is None:
            return {"model": {"id": "P", "name": said["project"], "entity": None, "bucket": None}}
        counts = {
            "logLineCount": len(run.lines.get("output.log", [])),
            "historyLineCount": len(run.lines.get("wandb-history.jsonl", [])),
            "eventsLineCount": len(run.lines.get("wandb-events.jsonl", [])),
        }
        tails = {
            "historyTail": json.dumps(run.lines.get("wandb-history.jsonl", [])[-1:]),
            "eventsTail": json.dumps(run.lines.get("wandb-events.jsonl", [])[-1:]),
        }
        told = {"config": json.dumps(run.config), "summaryMetrics": json.dumps(run.summary)}
        bucket = _bucket(run) | counts | tails | told | {"wandbConfig": '{"t": 1}', "tags": []}
        entity = {"id": "E", "name": ENTITY}
        return {"model": {"id": "P", "name": run.project, "entity": entity, "bucket": bucket}}

    def _run(self, said: dict[str, Any]) -> Any:
        run = self.runs.get(said["name"])
        return {"project": {"run": run and self._whole(run)}}

    def _whole(self, run: Bucket) -> dict[str, Any]:
        return _bucket(run) | {
            "config": json.dumps(run.config),
            "summaryMetrics": json.dumps(run.summary),
            "systemMetrics": "{}",
            "historyKeys": {"lastStep": max(run.rows(), default=-1), "keys": {}},
        }

    def _run_files(self, said: dict[str, Any]) -> Any:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/storage/run/{said['run']}/{name}"}
            for name in said["files"]
        ]
        return {"createRunFiles": {"runID": said["run"], "uploadHeaders": [], "files": files}}

    def _artifact_type(self, said: dict[str, Any]) -> Any:
        versions = self.artifacts.get(said["name"].split(":")[0])
        kind = {"artifactType": {"name": versions[0].kind}} if versions else None
        return {"project": {"artifact": kind}}

    def _create_artifact(self, said: dict[str, Any]) -> Any:
        wanted = said["input"]
        versions = self.artifacts.setdefault(wanted["artifactCollectionName"], [])
        same = [v for v in versions if v.digest == wanted["digest"]]
        if not same:
            identifier = hashlib.sha256(wanted["digest"].encode()).hexdigest()[:8]
            metadata = json.loads(wanted["metadata"])
            new = Version(identifier, wanted["digest"], wanted["artifactTypeName"], metadata)
            versions.append(new)
        version = same[0] if same else versions[-1]
        for alias in wanted["aliases"]:
            for one in versions:
                one.aliases.discard(alias["alias"])
            version.aliases.add(alias["alias"])
        state = "COMMITTED" if version.committed else "PENDING"
        described = {"id": version.id, "state": state, "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": described}}

    def _create_manifest(self, said: dict[str, Any]) -> Any:
        file = {
            "id": "F",
            "name": said["name"],
            "displayName": said["name"],
            "uploadUrl": f"{self.url}/storage/manifest/{said['artifactID']}/{said['name']}",
            "uploadHeaders": [],
        }
        return {"createArtifactManifest": {"artifactManifest": {"id": "M", "file": file}}}

    def _create_artifact_files(self, said: dict[str, Any]) -> Any:
        edges = [
            {
                "node": {
                    "id": file["name"],
                    "name": file["name"],
                    "displayName": file["name"],
                    "storagePath": file["name"],
                    "uploadUrl": f"{self.url}/storage/artifact/{file['artifactID']}/{file['name']}",
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": file["artifactID"]},
                }
            }
            for file in said["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commit(self, said: dict[str, Any]) -> Any:
        version = self._version(said["artifactID"])
        version.committed = True
        return {"commitArtifact": {"artifact": {"id": version.id, "digest": version.digest}}}

    def _viewer(self, _said: dict[str, Any]) -> Any:
        teams: dict[str, Any] = {"edges": []}
        viewer = {"id": "U", "entity": ENTITY, "username": ENTITY, "email": "", "admin": False}
        return {"viewer": viewer | {"flags": "{}", "teams": teams}}

    def _features(self, _said: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}


_OPERATIONS: dict[str, Callable[[WandbServer, dict[str, Any]], Any]] = {
    "UpsertBucket": WandbServer._upsert,
    "RewindRun": WandbServer._rewind,
    "RunResumeStatus": WandbServer._resume,
    "query Run": WandbServer._run,
    "RunHistoryKeys": WandbServer._run,
    "CreateRunFiles": WandbServer._run_files,
    "ArtifactType": WandbServer._artifact_type,
    "CreateArtifactManifest": WandbServer._create_manifest,
    "CreateArtifactFiles": WandbServer._create_artifact_files,
    "CreateArtifact": WandbServer._create_artifact,
    "CommitArtifact": WandbServer._commit,
    "[Vv]iewer": WandbServer._viewer,
    "ServerFeaturesQuery": WandbServer._features,
}


def _bucket(run: Bucket) -> dict[str, Any]:
    return {
        "id": run.name,
        "name": run.name,
        "displayName": run.display,
        "description": "",
        "notes": "",
        "group": run.group,
        "jobType": None,
        "commit": None,
        "readOnly": False,
        "sweepName": None,
        "tags": [],
        "state": "running" if run.exit_code is None else "finished",
        "createdAt": "2026-11-22T00:00:00",
        "heartbeatAt": "2026-11-22T00:00:00",
        "historyLineCount": len(run.lines.get("wandb-history.jsonl", [])),
        "projectId": "1",
        "project": {"id": "P", "name": run.project, "entity": {"id": "E", "name": ENTITY}},
        "user": {"name": ENTITY, "username": ENTITY},
    }


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            scheme, _, secret = self.headers.get("Authorization", "").partition(" ")
            key = base64.b64decode(secret).decode().removeprefix("api:") if scheme else ""
            try:
                status, answer = server.answer(urlsplit(self.path).path, key, body)
            except Exception as error:
                server.faults.append(repr(error))
                status, answer = 400, {"error": repr(error)}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Silent: the tests look at what the server has."""

    return Handler

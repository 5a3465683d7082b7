"""The StackScripts of an account, among those that others have made public."""

from collections.abc import Sequence

from infra.simulator.account import USERNAME, Account
from infra.simulator.answers import JSON, Refusal, not_found
from infra.simulator.operations import Call, Operation, fields
from infra.simulator.things import Script

_SCALARS = {"label": str, "description": str, "rev_note": str, "script": str}


class Scripts:
    """Answers for /linode/stackscripts."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def operations(self) -> list[Operation]:
        every, one = "/linode/stackscripts", "/linode/stackscripts/{id:int}"
        read, write = "stackscripts:read_only", "stackscripts:read_write"
        filterable = fields("label mine is_public description rev_note deployments_total")
        return [
            Operation("GET", every, read, self._list, filterable),
            Operation("POST", every, write, self._create),
            Operation("GET", one, read, self._get),
            Operation("PUT", one, write, self._update),
            Operation("DELETE", one, write, self._delete),
        ]

    def _list(self, call: Call) -> Sequence[Script]:
        return self._account.all(Script)

    def _get(self, call: Call) -> JSON:
        return self._account.find(Script, call.id).view()

    def _create(self, call: Call) -> JSON:
        account, body, now = self._account, call.body, self._account.now()
        script = Script(
            id=next(account.ids),
            label="",
            created=now,
            updated=now,
            script="",
            images=[],
            username=USERNAME,
            is_public=bool(body.get("is_public")),
        )
        for name in ("label", "script", "images"):
            if not body.get(name):
                raise Refusal(f"{name} is required", name)
        self._set(script, body)
        account.add(script)
        account.log("stackscript_create", script)
        return script.view()

    def _update(self, call: Call) -> JSON:
        script = self._own(call.id)
        self._set(script, call.body)
        script.updated = self._account.now()
        return script.view()

    def _own(self, id: int) -> Script:
        script = self._account.find(Script, id)
        if not script.view()["mine"]:
            raise not_found()
        return script

    def _set(self, script: Script, body: JSON) -> None:
        if "label" in body and not 3 <= len(str(body["label"])) <= 128:
            raise Refusal("Length must be 3-128 characters", "label")
        if "script" in body and not str(body["script"]).startswith("#!"):
            raise Refusal("Script must begin with a shebang (example: #!/bin/bash)", "script")
        for name, kind in _SCALARS.items():
            if body.get(name) is not None:
                if not isinstance(body[name], kind):
                    raise Refusal("Must be of type String", name)
                setattr(script, name, body[name])
        if body.get("images") is not None:
            script.images = list(body["images"])

    def _delete(self, call: Call) -> JSON:
        script = self._own(call.id)
        if script.is_public:
            raise Refusal("A public StackScript cannot be deleted")
        self._account.delete(script, 0, lambda: self._account.remove(script))
        return {}

"""What a look at one link of a checkpoint's lineage shows, and what all of them show together."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from infra.failure import Cause, Failure

State = Literal["verified", "missing", "damaged"]


class Proof(BaseModel):
    """One thing that was looked at: what it hashes to, and whether that is right."""

    model_config = ConfigDict(frozen=True)

    what: str
    state: State
    said: str = ""
    hash: str | None = None  # as it was computed just now

    @classmethod
    def of_hash(cls, what: str, found: str, wanted: str, by: str) -> "Proof":
        """That a thing hashes to what `by` says."""
        if found == wanted:
            return cls(what=what, state="verified", said=f"as {by} says", hash=found)
        return cls(what=what, state="damaged", said=f"but {by} says {wanted}", hash=found)

    @classmethod
    def of_agreement(cls, what: str, **agrees: bool) -> "Proof":
        """That what a thing says is also what the checkpoint says, point by point."""
        if differing := [point.replace("_", " ") for point, fits in agrees.items() if not fits]:
            said = f"not the checkpoint's: {', '.join(differing)}"
            return cls(what=what, state="damaged", said=said)
        return cls(what=what, state="verified", said="says the same as the checkpoint")

    @classmethod
    def missing(cls, what: str, said: str = "it is not in the store") -> "Proof":
        """That there is nothing to look at, or nothing to hold it against."""
        return cls(what=what, state="missing", said=said)

    @classmethod
    def damaged(cls, what: str, error: Exception) -> "Proof":
        """That it cannot be read for what it should be."""
        return cls(what=what, state="damaged", said=str(error).rstrip("."))


class Link(BaseModel):
    """One link of the chain."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["archive", "dataset", "run", "checkpoint", "champion"]
    name: str
    said: str = ""
    proofs: tuple[Proof, ...] = ()


class Lineage(BaseModel):
    """The chain of one checkpoint, from its archives on."""

    model_config = ConfigDict(frozen=True)

    checkpoint: Path
    links: tuple[Link, ...]

    def found(self, state: State) -> list[str]:
        """What is in that state, in words."""
        return [
            f"{proof.what} of {link.kind} {link.name[:16]} ({proof.said})"
            for link in self.links
            for proof in link.proofs
            if proof.state == state
        ]

    def must_hold(self) -> None:
        """Raise Failure(CORRUPT) that names all that does not fit."""
        if damaged := self.found("damaged"):
            raise Failure(
                Cause.CORRUPT,
                f"The lineage of {self.checkpoint} does not hold: {'; '.join(damaged)}. Put back "
                "what was there, or train again.",
            )

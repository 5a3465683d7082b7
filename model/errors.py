"""What can go wrong in this room, said in a sentence."""


class InputError(ValueError):
    """Bad input: the message is one or two sentences that name the thing and the cure."""


class TrainingError(RuntimeError):
    """Training went wrong; `cause` is a word of the one enumeration of causes."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause

"""The names of the loss terms and the text that combines them; no torch, for the command line."""

import math

from model.errors import InputError

WEIGHTED_TERMS = ("cross_entropy", "bce", "focal")  # that a class's weight counts in
LOSS_TERMS = ("cross_entropy", "bce", "dice", "jaccard", "tversky", "focal", "lovasz")


def parse_loss(text: str) -> dict[str, float]:
    """Read a weighted sum of loss terms, such as ``tversky + cross_entropy`` or ``0.5*dice``.

    Returns:
        the weight of each term, in the order of the text; 1.0 where none is written.

    Raises:
        InputError: a term that is not in `LOSS_TERMS`, is named twice, or has a weight that is
            not a positive finite number.
    """
    weights: dict[str, float] = {}
    for part in text.split("+"):
        factor, star, name = part.rpartition("*")
        name = name.strip()
        if name not in LOSS_TERMS:
            raise InputError(
                f"Loss {text!r} has the unknown term {name!r}; "
                f"known terms are {', '.join(LOSS_TERMS)}, summed as in '0.5*dice + jaccard'."
            )
        if name in weights:
            raise InputError(f"Loss {text!r} names {name} twice; name it once, with one weight.")
        weights[name] = _weight(factor, text) if star else 1.0
    return weights


def _weight(factor: str, text: str) -> float:
    try:
        weight = float(factor)
    except ValueError:
        weight = math.nan
    if not 1e-6 <= weight <= 1e6:
        raise InputError(
            f"Loss {text!r} has the weight {factor.strip()!r}; a weight is a positive number up to "
            "a million."
        )
    return weight

"""How many of a thing, in words."""


def counted(number: int, thing: str) -> str:
    """`1 photo`, `2 photos`, `1,464 photos`: with the plural that most nouns have."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"

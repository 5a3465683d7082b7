"""The text that names a loss: what it means, and what is refused."""

import subprocess
import sys

import pytest

from model.errors import InputError
from model.loss_terms import parse_loss


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("tversky + cross_entropy", {"tversky": 1.0, "cross_entropy": 1.0}),
        ("0.5*dice + jaccard", {"dice": 0.5, "jaccard": 1.0}),
        ("  1e-2 * dice+2*tversky ", {"dice": 0.01, "tversky": 2.0}),
    ],
)
def test_parse_loss_reads_a_weighted_sum(text: str, weights: dict[str, float]) -> None:
    assert parse_loss(text) == weights


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dice + hinge", "'hinge'.*cross_entropy, bce, dice, jaccard, tversky, focal, lovasz"),
        ("dice + 0.5*dice", "names dice twice"),
        ("", "unknown term ''"),
        ("dice +", "unknown term ''"),
        ("dice*0.5", "unknown term '0.5'"),
        ("half*dice", "weight 'half'"),
        ("-1*dice", "weight '-1'"),
        ("0*dice", "weight '0'"),
        ("nan*dice", "weight 'nan'"),
        ("inf*dice", "weight 'inf'"),
    ],
)
def test_parse_loss_refuses_and_says_why(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_loss(text)


def test_parse_loss_does_not_load_torch() -> None:
    code = "import sys, model.loss_terms; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Secrets in URLs: found wherever they hide, and never shown."""

import pytest

from infra.failure import Cause, Failure
from infra.stores import Store
from infra.urls import has_secret, has_user, without_secrets


@pytest.mark.parametrize(
    "url",
    [
        "https://anna:hunter2@host/v.tar",
        "https://hunter2@host/v.tar",
        "//anna:hunter2@host/v.tar",
        "simplecache::s3://anna:hunter2@bucket/v.tar",
        "https://anna:hunter2/and?more#here@host/v.tar",
    ],
)
def test_a_user_is_found_and_not_shown(url: str) -> None:
    assert has_user(url)
    assert has_secret(url)
    assert "hunter2" not in without_secrets(url)
    assert without_secrets(url).endswith("/v.tar")


NAMES = (
    "X-Amz-Signature X-Goog-Credential sig SAS access_token private-token jwt AWSAccessKeyId"
    " api-key apikey key client_secret auth passwd user_pwd rlkey authkey"
    " resourcekey pw ticket bearer hmac code auth_code jsessionid"
)


@pytest.mark.parametrize("mark", ["?", "#", "?a=b&", "?a=b;", "?a=b#", "#part=1&", "%3F", ";"])
@pytest.mark.parametrize("name", NAMES.split())
def test_a_key_beside_the_path_is_found_and_not_shown(name: str, mark: str) -> None:
    assert has_secret(f"https://host/v.tar{mark}{name}=hunter2")
    assert not has_user(f"https://host/v.tar{mark}{name}=hunter2")
    assert without_secrets(f"https://host/v.tar{mark}{name}=hunter2") == "https://host/v.tar"


@pytest.mark.parametrize(
    "url",
    [
        "/data/a@b/v.tar",
        "file:///data/a@b/v.tar",
        "https://host:8080/a@b/v.tar",
        "http://[::1]:8080/a@b/v.tar",
        "https://host/get?file=v.tar&version=2&author=me&monkey=3&design=x",
        "https://host/get?path=a&postcode=b&country_code=c&codec=d&encode=e&tickets=4&pwm=5",
        "https://host/a;v=2/v.tar;charset=latin1",
        "s3://bucket/token/v@2.tar#sha256=" + "0" * 64,
    ],
)
def test_what_is_no_secret_is_left_alone(url: str) -> None:
    assert not has_secret(url)


def test_query_and_fragment_are_not_shown() -> None:
    assert without_secrets("https://host/v.tar?a=1#b") == "https://host/v.tar"


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/prefix?token=hunter2",
        "s3://bucket/prefix?hunter2",
        "s3://bucket/prefix#token=hunter2",
        "s3://anna:hunter2/and?more@bucket",
        "//anna:hunter2@bucket/prefix",
        "https://host/prefix?sig=hunter2",
        "file:///data/store?token=hunter2",
    ],
)
def test_a_store_url_with_more_than_a_place_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(Failure, match="remove it, and set AWS_ACCESS_KEY_ID") as caught:
        Store.open(url)
    assert caught.value.cause is Cause.STORE
    assert "hunter2" not in str(caught.value)

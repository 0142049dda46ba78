import httpx
import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

from diffusion.hub import advice


def answer(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    return kind("no", response=httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co")))


@pytest.mark.parametrize(
    ("error", "type_", "fix"),
    [
        (answer(GatedRepoError, 403), "base-model/gated", "Accept its licence"),
        (answer(RepositoryNotFoundError, 404), "base-model/not-found", "Check the hub id"),
        (answer(RevisionNotFoundError, 404), "base-model/not-found", "revision"),
        (answer(HfHubHTTPError, 503), "base-model/unreachable", "Check the network"),
        (OfflineModeIsEnabled("offline"), "base-model/unreachable", "give a folder"),
        (httpx.ConnectError("refused"), "base-model/unreachable", "Check the network"),
        (ValueError("odd"), "base-model/bad-name", "Give a folder or a hub id"),
    ],
)
@pytest.mark.parametrize("wrapped", [True, False])
def test_every_refusal_says_what_to_do(error: Exception, type_: str, fix: str, wrapped: bool) -> None:
    seen = OSError("Cannot load model")
    seen.__cause__ = error
    found = advice("maker/model", seen if wrapped else error)
    assert found.type == type_
    assert fix in found.detail
    assert "maker/model" in str(found)

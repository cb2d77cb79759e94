"""Models of the Hugging Face Hub: their files, and never their code."""

from __future__ import annotations

from pathlib import Path

from app.errors import PairError


def fetch(repository: str, revision: str | None) -> Path:
    """The files of a Hub repository, in the Hub's own cache; HF_TOKEN and HF_HUB_OFFLINE are honoured.

    Raises PairError.
    """
    from huggingface_hub import errors, snapshot_download

    at = repository if revision is None else f"{repository} at revision {revision}"
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=["*.json", "*.safetensors", "*.jinja"],
                ignore_patterns=["original/*", "consolidated*"],
            )
        )
    except errors.GatedRepoError:
        raise PairError(
            f"{repository} is gated; accept its licence on huggingface.co, then set HF_TOKEN to a token of that account."
        ) from None
    except errors.RepositoryNotFoundError:
        raise PairError(
            f"The Hub has no {repository} that this token may read; check the name, or set HF_TOKEN."
        ) from None
    except errors.RevisionNotFoundError:
        raise PairError(f"{repository} has no revision {revision}; check --revision.") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise PairError(
            f"{at} is not in this machine's Hub cache, and the Hub cannot be reached; connect (and unset HF_HUB_OFFLINE), "
            "or name a local directory."
        ) from None
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise PairError(f"{at} cannot be fetched ({reason}); try again.") from error

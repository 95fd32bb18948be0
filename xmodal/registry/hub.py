"""Adapters on the Hugging Face hub: what is sent there, and the methods by which tasks and pipelines are shared.

Nothing here imports the hub's client before something is sent. Where it sends to, and as whom, is as the client's own
environment says (``HF_ENDPOINT``, ``HF_TOKEN``, ``hf auth login``).
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from tempfile import TemporaryDirectory

from xmodal.registry.adapters import CARD, FILES, LORA, find
from xmodal.registry.cards import HUB_ID, offline

MESSAGE = "Upload adapter with xmodal"


class Shared:
    """``save_pretrained`` and ``push_to_hub``, by the names and meanings of huggingface_hub's own mixin."""

    @abstractmethod
    def publish(self, folder: Path, name: str | None = None) -> Path:
        """Write the published form, whose card calls it ``name`` (default: the folder's name); returns the folder."""

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = MESSAGE,
    ) -> Path:
        """Write adapter.safetensors, recipe.yaml and a model card into a folder, and with ``push_to_hub`` send them.

        Args:
            repo_id: ``owner/name`` on the hub; needed to send, else it only names the adapter in its card.
            private, token, revision, commit_message: see `push`.

        Raises ValueError for what cannot be published, and what `push` raises.
        """
        if push_to_hub and repo_id is None:
            raise ValueError("push_to_hub needs repo_id, such as owner/name")
        folder = self.publish(Path(save_directory), repo_id)
        if push_to_hub:
            push(folder, str(repo_id), private=private, token=token, revision=revision, commit_message=commit_message)
        return folder

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = MESSAGE,
    ) -> str:
        """Send the published form to the hub; returns its address. Arguments and errors as of `push`."""
        check_name(repo_id)
        with TemporaryDirectory() as place:
            folder = self.publish(Path(place) / repo_id.partition("/")[2], repo_id)
            return push(folder, repo_id, private=private, token=token, revision=revision, commit_message=commit_message)


def check_name(repo_id: str) -> None:
    """Raise ValueError for what is no ``owner/name``."""
    if not HUB_ID.fullmatch(repo_id):
        raise ValueError(f"{repo_id!r} is no name on the hub: give owner/name")


def push(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = MESSAGE,
) -> str:
    """Send a published adapter to the hub in one commit, the repository being made where there is none; returns its address.

    Only the adapter's own files are sent, not what else lies in the folder. In its card the name by which it is loaded becomes
    ``repo_id``.

    Args:
        folder: what `publish` wrote.
        private: of a repository that is made now; default: the owner's own setting.
        token: of the hub; default: as the client finds it.
        revision: a branch, which is made where there is none; default: the main one.

    Raises ValueError for a name or a folder that is none, OSError where the network is forbidden, or the hub refuses.
    """
    check_name(repo_id)
    found = find(folder)
    found.weights()  # whole and finite, or nothing is sent
    if not (folder / CARD).is_file():
        raise ValueError(f"{folder} has no {CARD}, which tells others what it is: `xmodal export {folder} -o FOLDER` writes one")
    if offline():
        raise OSError(f"{folder} was not sent to {repo_id}: this is offline (--offline or HF_HUB_OFFLINE=1)")
    from huggingface_hub import CommitOperationAdd, HfApi

    names = [name for name in (*FILES, LORA) if (folder / name).is_file()]
    content: dict[str, bytes | str] = {name: str(folder / name) for name in names}
    card = (folder / CARD).read_text("utf-8")
    own = f'xmodal.pipeline("{folder.resolve().name}"'
    content[CARD] = card.replace(own, f'xmodal.pipeline("{repo_id}"').encode()
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=each) for name, each in content.items()]
    hub = HfApi(token=token, library_name="xmodal")
    try:
        hub.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            hub.create_branch(repo_id, branch=revision, exist_ok=True)
        hub.create_commit(repo_id, operations, commit_message=commit_message, revision=revision)
    except Exception as error:  # its network libraries' own kinds have changed from version to version
        text = " ".join(str(error).split()) or type(error).__name__
        reason = text[:300] if isinstance(error, ValueError) else text.partition(". ")[0][:200]
        unknown = getattr(getattr(error, "response", None), "status_code", None) in (401, 403)
        login = "`hf auth login` or HF_TOKEN says who you are, and the token must be allowed to write"
        raise OSError(f"{folder} was not sent to {repo_id} ({reason}): {login if unknown else 'try again'}") from error
    return f"{hub.endpoint}/{repo_id}" + (f"/tree/{revision}" if revision else "")

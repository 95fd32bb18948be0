"""A stand-in of the Hugging Face hub: what its client asks of it to make, fill and read repositories, over HTTP on this machine.

Weights go by the protocol of large files, all else with the commit, as on the hub; who sends must name the token.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_test"


class Hub:
    """Repositories as branch -> commit, and commit -> files; ``asked`` are all requests in order."""

    def __init__(self) -> None:
        self.branches: dict[str, dict[str, str]] = {}
        self.commits: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.url = ""

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a branch or commit; KeyError where there is none."""
        return self.commits[self.branches[repository].get(revision, revision)]

    def commit(self, repository: str, branch: str, lines: list[dict[str, Any]]) -> str:
        files = dict(self.files(repository, branch))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
        name = hashlib.sha1(repr((repository, sorted(files.items()))).encode()).hexdigest()
        self.commits[name] = files
        self.branches[repository][branch] = name
        return name


@contextmanager
def serving() -> Iterator[Hub]:
    """While open, a hub answers at ``hub.url``."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        pass

    def _answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_POST(self) -> None:
        path, body, hub = urlsplit(self.path).path, self._body(), self.hub
        hub.asked.append(f"POST {path}")
        if not self._known():
            return self._answer(
                401, {"error": "Invalid credentials"}, X_Error_Message="Invalid credentials in Authorization header"
            )
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if name in hub.branches:
                return self._answer(409, {"error": "You already created this model repo", "url": f"{hub.url}/{name}"})
            hub.branches[name] = {"main": "0" * 40}
            hub.commits["0" * 40] = {}
            if asked.get("private") or asked.get("visibility") == "private":
                hub.private.add(name)
            return self._answer(200, {"url": f"{hub.url}/{name}", "name": name, "id": name})
        if path == "/api/validate-yaml":
            good = json.loads(body)["content"].startswith("---\n")
            return self._answer(200 if good else 400, {"errors": [] if good else [{"message": "no metadata"}], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            wanted = [
                {"oid": each["oid"], "size": each["size"], "actions": {"upload": {"href": f"{hub.url}/large/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": wanted})
        _, _, _, owner, name, verb, branch = path.split("/", 6)
        repository, branch = f"{owner}/{name}", unquote(branch)
        if verb == "branch":
            if branch in hub.branches[repository]:
                return self._answer(409, {"error": "Reference already exists"})
            hub.branches[repository][branch] = hub.branches[repository]["main"]
            return self._answer(200, {})
        if branch not in hub.branches[repository]:
            return self._answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        if verb == "preupload":
            modes = [
                {
                    "path": each["path"],
                    "shouldIgnore": False,
                    "uploadMode": "lfs" if each["path"].endswith("tensors") else "regular",
                }
                for each in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": modes})
        commit = hub.commit(repository, branch, [json.loads(line) for line in body.splitlines() if line])
        return self._answer(200, {"commitUrl": f"{hub.url}/{repository}/commit/{commit}", "commitOid": commit})

    def do_PUT(self) -> None:
        body = self._body()
        self.hub.asked.append("PUT large")
        self.hub.large[hashlib.sha256(body).hexdigest()] = body
        self._answer(200)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, hub = unquote(urlsplit(self.path).path), self.hub
        hub.asked.append(f"{self.command} {path}")
        words = path.strip("/").split("/")
        api = words[:2] == ["api", "models"]
        repository = "/".join(words[2:4] if api else words[:2])
        if not api and len(words) < 4:
            return self._answer(404, {"error": "no page"})
        verb, rest = (words[4] if len(words) > 4 else "revision", words[5:]) if api else (words[2], words[3:])
        revision = rest[0] if rest else "main"
        if repository not in hub.branches or (repository in hub.private and not self._known()):
            return self._answer(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        try:
            files = hub.files(repository, revision)
        except KeyError:
            return self._answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        commit = hub.branches[repository].get(revision, revision)
        if verb == "revision":
            siblings = [{"rfilename": name} for name in files]
            return self._answer(200, {"id": repository, "sha": commit, "private": False, "tags": [], "siblings": siblings})
        if verb == "tree":
            rows = [
                {"type": "file", "path": name, "size": len(each), "oid": hashlib.sha1(each).hexdigest()}
                for name, each in files.items()
            ]
            return self._answer(200, rows)
        name = "/".join(rest[1:])
        if verb != "resolve" or name not in files:
            return self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        content = files[name]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self._answer(200, content, ETag=etag, X_Repo_Commit=commit, Content_Length=str(len(content)))

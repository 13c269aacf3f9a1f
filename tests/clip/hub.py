"""A stand-in for the Hugging Face hub and for OpenAI's server: HTTP on the loopback device, files from a folder."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

COMMIT = "0123456789" * 4


class Hub(ThreadingHTTPServer):
    """Serves FOLDER/OWNER/NAME/FILE as the hub does, and other paths of the folder as they are.

    Attributes:
        requests: "GET /path bytes=..." per request.
        gated, private: repositories that answer so.
        breaks: how many downloads end in the middle.
        changed: serve other bytes than the hash promises.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.requests: list[str] = []
        self.gated: set[str] = set()
        self.breaks = 0
        self.changed = False
        self.hashes: dict[Path, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def hash(self, path: Path) -> str:
        if path not in self.hashes:
            self.hashes[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self.hashes[path]


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_POST(self) -> None:
        """Make a repository, or take the files of a commit; the content of each stands in the request."""
        hub, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        hub.requests.append(f"POST {self.path}")
        if match := re.fullmatch("/api/models/(.+)/(preupload|commit)/main", self.path):
            if match[2] == "preupload":
                answer = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                return self.reply({"files": [{"path": file["path"], **answer} for file in json.loads(body)["files"]]})
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    path = hub.folder / match[1] / line["value"]["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(base64.b64decode(line["value"]["content"]))
            return self.reply({"commitUrl": f"{hub.url}/{match[1]}/commit/{COMMIT}", "commitOid": COMMIT})
        if self.path == "/api/repos/create":
            made = json.loads(body)
            name = f"{made.get('organization', 'someone')}/{made['name']}"
            if name in hub.gated:
                return self.refuse(403, "")
            return self.reply({"url": f"{hub.url}/{name}", "id": name})
        return self.reply({"warnings": [], "errors": []})  # /api/validate-yaml

    def reply(self, content: object) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        hub, start = self.server, int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        hub.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        match = re.fullmatch("/([^/]+/[^/]+)/resolve/main/(.+)", self.path)
        path = hub.folder / (f"{match[1]}/{match[2]}" if match else self.path[1:])
        if match and match[1] in hub.gated:
            return self.refuse(403, "GatedRepo")
        if match and not (hub.folder / match[1]).is_dir():
            return self.refuse(401, "RepoNotFound")
        if not path.is_file():
            return self.refuse(404, "EntryNotFound")
        content = path.read_bytes()[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hub.hash(path)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{start + len(content)}")
        self.end_headers()
        if not body:
            return None
        if hub.changed:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if hub.breaks:
            hub.breaks -= 1
            self.wfile.write(content[: len(content) // 2])
            return self.connection.close()
        self.wfile.write(content)
        return None

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()


def point_at(patch: pytest.MonkeyPatch, url: str) -> None:
    """What HF_ENDPOINT=URL does before huggingface_hub is imported."""
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "ENDPOINT", url)


@contextmanager
def serve(folder: Path, cache: Path) -> Iterator[Hub]:
    """A running hub, of which huggingface_hub and open_clip's own downloads know, with an empty cache."""
    hub = Hub(folder)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        point_at(patch, hub.url)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setenv("HOME", str(cache))  # of open_clip's ~/.cache/clip
        patch.setenv("NO_PROXY", "127.0.0.1")
        try:
            yield hub
        finally:
            hub.shutdown()
            hub.server_close()
            thread.join()

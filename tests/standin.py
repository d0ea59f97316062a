"""A stand-in of the Hugging Face Hub on this machine: the part of its API that uploading and fetching a model take."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" * 6 + "c0ff"


class StandIn:
    """Repositories in memory, by name and file. `requests` are those that came, as `METHOD path`."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.tokens: set[str] = set()
        self.requests: list[str] = []
        self.endpoint = ""


@contextmanager
def serving() -> Iterator[StandIn]:
    """A running one, at `endpoint`."""
    hub = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def answer(self, *, body: bool) -> None:
            path = self.note()
            if match := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)(?:/revision/\w+)?", path):
                repo = hub.repos.get(match[1])
                if repo is None:
                    return self.refuse(404, "RepoNotFound", "Repository not found")
                files = [{"rfilename": name} for name in repo]
                return self.send({"id": match[1], "modelId": match[1], "sha": COMMIT, "siblings": files})
            if match := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/tree/\w+.*", path):
                repo = hub.repos.get(match[1], {})
                return self.send([{"type": "file", "path": n, "size": len(d), "oid": "0"} for n, d in repo.items()])
            if match := re.fullmatch(r"/([\w-]+/[\w-]+)/resolve/\w+/(.+)", path):
                data = hub.repos.get(match[1], {}).get(match[2])
                if data is None:
                    return self.refuse(404, "EntryNotFound", "Entry not found")
                return self.send_bytes(data, body)
            return self.refuse(404, "", f"no such address: {path}")

        def do_POST(self) -> None:
            path = self.note()
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.tokens.add(self.headers.get("Authorization", ""))
            if path == "/api/repos/create":
                wanted = json.loads(data)
                name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
                if name == "me/forbidden":
                    return self.refuse(403, "", "you may not write there")
                hub.repos.setdefault(name, {})
                hub.private[name] = bool(wanted.get("private") or wanted.get("visibility") == "private")
                return self.send({"url": f"{hub.endpoint}/{name}", "name": name})
            if path == "/api/validate-yaml":
                return self.send({"errors": [], "warnings": []})
            if match := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/preupload/\w+", path):
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                    for file in json.loads(data)["files"]
                ]
                return self.send({"files": files})
            if match := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/commit/\w+", path):
                for line in data.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        hub.repos[match[1]][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                return self.send(
                    {"commitUrl": f"{hub.endpoint}/{match[1]}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
                )
            return self.refuse(404, "", f"no such address: {path}")

        def note(self) -> str:
            path = self.path.split("?")[0].replace("%2F", "/")
            hub.requests.append(f"{self.command} {path}")
            return path

        def send(self, value: object) -> None:
            self.send_bytes(json.dumps(value).encode(), True, "application/json")

        def send_bytes(self, data: bytes, body: bool, kind: str = "application/octet-stream") -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def refuse(self, status: int, code: str, message: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler

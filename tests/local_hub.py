"""A hub on this machine: it serves folders as revisions of repositories, as the real one does."""

import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

GATED = "tiny/gated"


def commit_of(repository, revision):
    return hashlib.sha1(f"{repository}@{revision}".encode()).hexdigest()


@contextmanager
def serving(repositories):
    """Serve `{repository: {revision: folder}}` while open; yield the address and the requests."""
    asked = []

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, *, body):
            path = unquote(urlsplit(self.path).path).strip("/")
            asked.append(path)
            if path.startswith("api/models/"):
                return self.api(path.removeprefix("api/models/"), body)
            owner, name, resolve, revision, *file = path.split("/")
            assert resolve == "resolve", path
            found = self.find(f"{owner}/{name}", revision)
            if found is None:
                return None
            commit, folder = found
            file = folder / "/".join(file)
            if not file.is_file():
                return self.refuse(404, "EntryNotFound", commit)
            blob = file.read_bytes()
            headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(blob).hexdigest()}"'}
            return self.send(200, blob, headers, body)

        def api(self, path, body):
            owner, name, what, *rest = path.split("/")
            repository = f"{owner}/{name}"
            if what == "refs":
                if repository not in repositories:
                    return self.refuse(404, "RepoNotFound")
                branches = [
                    {"name": one, "ref": f"refs/heads/{one}", "targetCommit": "0" * 40}
                    for one in repositories[repository]
                ]
                told = {"branches": branches, "tags": [], "converts": []}
                return self.send(200, json.dumps(told).encode(), {}, body)
            found = self.find(repository, rest[0])
            if found is None:
                return None
            commit, folder = found
            files = sorted(path.name for path in folder.iterdir())
            if what == "tree":
                if len(rest) > 1:
                    return self.refuse(404, "EntryNotFound", commit)
                told = [
                    {"type": "file", "path": one, "size": (folder / one).stat().st_size, "oid": one}
                    for one in files
                ]
            else:
                told = {
                    "id": repository,
                    "sha": commit,
                    "siblings": [{"rfilename": one} for one in files],
                }
            return self.send(200, json.dumps(told).encode(), {}, body)

        def find(self, repository, revision):
            if repository == GATED:
                return self.refuse(403, "GatedRepo")
            if repository not in repositories:
                return self.refuse(404, "RepoNotFound")
            for name, folder in repositories[repository].items():
                commit = commit_of(repository, name)
                if revision in (name, commit):
                    return commit, Path(folder)
            return self.refuse(404, "RevisionNotFound")

        def refuse(self, status, code, commit=None):
            headers = {"X-Error-Code": code} | ({"X-Repo-Commit": commit} if commit else {})
            self.send(status, b"", headers, True)

        def send(self, status, blob, headers, body):
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(blob)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            if body:
                self.wfile.write(blob)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()

"""A stand-in for the HTTP interface of the Hugging Face Hub, on loopback and in memory.

It answers the requests of the real `huggingface_hub` client for sharing and loading a repository: users and tokens,
private repositories, uploads (inside the commit, by git-lfs, or through Xet), commits, branches, tags, pull requests
and downloads. It can also produce faults. It has no quotas, gating, search, or checks of uploaded files. When it
stops, everything is lost.

To start it by hand:

    python tests/hub_server.py --port 8750
    export HF_ENDPOINT=http://127.0.0.1:8750 HF_TOKEN=hf_alice
"""

import argparse
import base64
import contextlib
import hashlib
import json
import re
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from huggingface_hub.utils import HFValidationError, validate_repo_id


USERS = {"hf_alice": "alice", "hf_bob": "bob"}  # token -> user
KINDS = ("models", "datasets", "spaces")
ZERO_OID = "0" * 40
SMALL_FILE = 10 * 2**20  # the Hub accepts larger files, and all safetensors files, only through LFS
LINK_EXPIRES_IN = 3600  # seconds

# Values that the Hub's documentation on model cards allows in the metadata.
LICENSES = {"apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "gpl-3.0", "other", "unknown"}
TASKS = {
    "feature-extraction",
    "fill-mask",
    "question-answering",
    "text-classification",
    "text-generation",
    "token-classification",
}


@dataclass
class Blob:
    """The content of a file in a commit."""

    data: bytes
    is_lfs: bool = False
    xet_hash: str | None = None  # if the content is in Xet; `data` is then empty
    size: int = -1
    sha256: str = ""

    def __post_init__(self):
        if self.xet_hash is None:
            self.size, self.sha256 = len(self.data), hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """The hash that git gives the blob."""
        content = self.sha256.encode() if self.is_lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Commit:
    oid: str
    title: str
    files: dict[str, Blob]
    parent: "Commit | None" = None


@dataclass
class Repository:
    kind: str
    id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)  # by oid
    refs: dict[str, str] = field(default_factory=dict)  # "main", "refs/pr/1", tags -> oid
    tags: set[str] = field(default_factory=set)
    pull_requests: int = 0

    def find(self, revision: str) -> Commit | None:
        return self.commits.get(self.refs.get(revision, revision))

    def commit(self, ref: str, title: str, files: dict[str, Blob], parent: Commit | None) -> Commit:
        listing = "".join(f"{path} {blob.oid}\n" for path, blob in sorted(files.items()))
        oid = hashlib.sha1(f"{len(self.commits)} {title}\n{listing}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, title, files, parent)
        self.refs[ref] = oid
        return self.commits[oid]

    def history(self, revision: str = "main") -> list[Commit]:
        """The commits of a revision, latest first."""
        commits, commit = [], self.find(revision)
        while commit is not None:
            commits.append(commit)
            commit = commit.parent
        return commits


@dataclass
class Fault:
    """A fault in the next requests of `method` whose path contains `path`.

    `error` and `drop` happen before the request is served. `error after` and `drop after` happen afterwards, so that
    only the answer is lost. `stale` answers that the branch has moved. `slow` delays the request. `truncate` closes
    the connection in the middle of the answer.
    """

    method: str
    path: str
    kind: Literal["error", "error after", "drop", "drop after", "stale", "slow", "truncate"]
    times: int = 1
    seconds: float = 0.0  # delay of `slow`


class HubError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, **content):
        super().__init__(message)
        self.status, self.code, self.content = status, code, content


class HubServer(ThreadingHTTPServer):
    """The server. `with HubServer() as hub:` starts it and stops it at the end of the block.

    Args:
        transfer: how files are uploaded: `"lfs"` (safetensors and large files by git-lfs), `"regular"` (all files
            inside the commit) or `"xet"` (as `lfs`, but a client with Xet stores these files in a local folder).
        port: 0 picks a free port.
    """

    daemon_threads = True

    def __init__(self, transfer: Literal["lfs", "regular", "xet"] = "lfs", port: int = 0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.transfer = transfer
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # sha256 -> LFS object
        self.faults: list[Fault] = []
        self.requests: list[str] = []  # "METHOD path status"
        self.lock = threading.RLock()
        self._xet = tempfile.TemporaryDirectory(prefix="hub-xet-")
        self.xet_folder = Path(self._xet.name)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exc_info):
        self.shutdown()
        self.server_close()
        self._xet.cleanup()

    def handle_error(self, request, client_address):
        pass  # a client that closed its connection is expected

    def repository(self, repo_id: str, kind: str = "models") -> Repository:
        return self.repositories[kind, repo_id]

    def fail(self, method: str, path: str, kind: str, times: int = 1, seconds: float = 0.0) -> None:
        self.faults.append(Fault(method, path, kind, times, seconds))

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and fault.path in path:
                    fault.times -= 1
                    return fault
        return None

    def stored_in_xet(self, sha256: str) -> str | None:
        """The Xet hash of a file with this sha256, from the shards that the client wrote into our folder."""
        for shard in self.xet_folder.rglob("*.mdb"):
            hashes = dict(_files_of_shard(shard.read_bytes()))
            if sha256 in hashes:
                return hashes[sha256]
        return None


def _files_of_shard(shard: bytes):
    """Yield (sha256, Xet hash) of each file in an MDB shard.

    Layout: a header of 48 bytes, then the files. Each file has 48 bytes (hash, flags, number N of entries) and N
    entries of 48 bytes. If bit 31 of the flags is set, N entries of 48 bytes for verification follow. If bit 30 is
    set, 48 bytes that start with the sha256 follow. A hash of all ones ends the list. A hash is four little-endian
    words.
    """

    def hex_at(position):
        words = (shard[position + 8 * i : position + 8 * i + 8] for i in range(4))
        return "".join(word[::-1].hex() for word in words)

    position = 48
    while shard[position : position + 32] != b"\xff" * 32:
        xet_hash = hex_at(position)
        flags = int.from_bytes(shard[position + 32 : position + 36], "little")
        entries = int.from_bytes(shard[position + 36 : position + 40], "little")
        position += 48 * (1 + entries * (2 if flags >> 31 & 1 else 1))
        if flags >> 30 & 1:
            yield hex_at(position), xet_hash
            position += 48


def card_errors(content: str) -> list[str]:
    """The reasons for which the Hub would reject a model card."""
    match = re.match(r"\s*---\r?\n(.*?)\r?\n---", content, re.DOTALL)
    if match is None:
        return ["there is no YAML between two lines of ---"]
    try:
        metadata = yaml.safe_load(match[1]) or {}
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    languages = metadata.get("language") or []
    results = [result for entry in metadata.get("model-index") or [] for result in entry.get("results") or []]
    checks = {
        f'"license" must be one of {sorted(LICENSES)}': metadata.get("license") in {None, *LICENSES},
        '"pipeline_tag" is not a known task': metadata.get("pipeline_tag") in {None, *TASKS},
        '"language" must be ISO 639 codes': all(
            re.fullmatch(r"[a-z]{2,3}|code|multilingual", language)
            for language in ([languages] if isinstance(languages, str) else languages)
        ),
        '"datasets" must be repositories': all(
            re.fullmatch(r"(?:[\w.-]+/)?[\w.-]+", dataset) for dataset in metadata.get("datasets") or []
        ),
        '"model-index[].name" is required': all(entry.get("name") for entry in metadata.get("model-index") or []),
        '"model-index[].results[]" needs task.type, dataset.type and dataset.name': all(
            isinstance((result.get(group) or {}).get(name), str)
            for result in results
            for group, name in (("task", "type"), ("dataset", "type"), ("dataset", "name"))
        ),
        '"model-index[].results[].metrics[]" needs a type and a value': all(
            isinstance(metric.get("type"), str) and metric.get("value") is not None
            for result in results
            for metric in result.get("metrics") or [{}]
        ),
    }
    return [message for message, holds in checks.items() if not holds]


def _is_true(text: str | None) -> bool:
    return (text or "").lower() in ("1", "true")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    # Serving a request

    def _serve(self):
        hub: HubServer = self.server
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.parts = [unquote(part) for part in url.path.strip("/").split("/")]
        self.body = self._read_body()
        self.fault = hub.take_fault(self.command, unquote(url.path))
        kind = self.fault.kind if self.fault else None
        if kind == "slow":
            threading.Event().wait(self.fault.seconds)
        if kind == "drop":
            return self._drop(url.path)
        try:
            if kind == "error":
                # Like a careless proxy, the error repeats the token of the request.
                raise HubError(500, f"Internal Error (injected) for {self.headers.get('Authorization')}")
            if kind == "stale":
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            with hub.lock:
                status, headers, content = self._answer()
        except HubError as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            status, content = error.status, {"error": str(error), **error.content}
        if kind == "drop after":
            return self._drop(url.path)
        if kind == "error after":
            status, headers, content = 500, {}, {"error": "Internal Error (injected)"}
        return self._send(url.path, status, headers, content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _drop(self, path):
        self.server.requests.append(f"{self.command} {path} dropped")
        self.close_connection = True

    def _send(self, path, status, headers, content):
        self.server.requests.append(f"{self.command} {path} {status}")
        is_json = not isinstance(content, bytes)
        data = json.dumps(content).encode() if is_json else content
        headers = {"Content-Type": "application/json" if is_json else "application/octet-stream"} | headers
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault.kind == "truncate":
            data = data[: len(data) // 2]
            self.close_connection = True
        self.wfile.write(data)

    def _json(self) -> dict:
        return json.loads(self.body or b"{}")

    # User, repository and route of a request

    def _user(self) -> str | None:
        authorization = self.headers.get("Authorization")
        if authorization is None:
            return None
        user = USERS.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return user

    def _find(self, kind: str, repo_id: str, write: bool = False) -> Repository:
        user = self._user()
        repository = self.server.repositories.get((kind, repo_id))
        owner = repo_id.split("/")[0]
        if repository is None or (repository.private and user != owner):
            raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user is None:
            raise HubError(401, "Invalid username or password.")
        # Anyone may open a pull request.
        if write and user != owner and not _is_true(self.query.get("create_pr")):
            raise HubError(403, f'You don\'t have the rights to write to "{repo_id}".')
        return repository

    def _revision(self, repository: Repository, revision: str) -> Commit:
        commit = repository.find(revision)
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _answer(self) -> tuple[int, dict, object]:
        """Status, headers and content. Content that is not bytes is sent as JSON."""
        parts = self.parts
        if parts[0] == "api":
            return self._answer_api(parts[1:])
        if parts[0] == "lfs-objects":
            return self._answer_object(parts[1])
        kind = parts.pop(0) if parts[0] in ("datasets", "spaces") else "models"
        if len(parts) == 6 and parts[1].endswith(".git") and parts[2:4] == ["info", "lfs"]:
            # Anyone may upload for a pull request, and the request does not say whether it is for a pull request.
            return self._answer_lfs_batch(self._find(kind, f"{parts[0]}/{parts[1][:-4]}"))
        if len(parts) > 4 and parts[2] == "resolve":
            return self._answer_resolve(self._find(kind, "/".join(parts[:2])), parts[3], "/".join(parts[4:]))
        raise HubError(404, f"Not found: {self.path}")

    def _answer_api(self, parts: list[str]):
        if parts == ["whoami-v2"]:
            user = self._user()
            if user is None:
                raise HubError(401, "Invalid username or password.")
            token = {"accessToken": {"displayName": "test", "role": "write"}}
            return 200, {}, {"type": "user", "name": user, "fullname": user, "orgs": [], "auth": token}
        if parts == ["validate-yaml"]:
            errors = card_errors(self._json()["content"])
            return 400 if errors else 200, {}, {"errors": [{"message": error} for error in errors], "warnings": []}
        if parts == ["repos", "create"]:
            return self._create()
        if parts == ["repos", "delete"]:
            repository = self._find(*self._named(), write=True)
            del self.server.repositories[repository.kind, repository.id]
            return 200, {}, {}
        if len(parts) >= 3 and parts[0] in KINDS:
            kind, repo_id, rest = parts[0], "/".join(parts[1:3]), parts[3:]
            write = rest[:1] == ["xet-write-token"] or (self.command != "GET" and rest[:1] != ["paths-info"])
            return self._answer_repository(self._find(kind, repo_id, write), rest)
        raise HubError(404, f"Not found: {self.path}")

    def _named(self) -> tuple[str, str]:
        """Kind and id of the repository named in the body of the request."""
        request = self._json()
        owner = request.get("organization") or self._user()
        return request.get("type", "model") + "s", f"{owner}/{request['name']}"

    def _create(self):
        user = self._user()
        if user is None:
            raise HubError(401, "Invalid username or password.")
        kind, repo_id = self._named()
        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise HubError(400, str(error)) from error
        url = f"{self.server.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"
        if repo_id.split("/")[0] != user:
            raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{repo_id}"')
        if (kind, repo_id) in self.server.repositories:
            raise HubError(409, "You already created this model repo", url=url)
        request = self._json()
        private = request.get("private") or request.get("visibility") == "private"
        repository = Repository(kind, repo_id, bool(private))
        repository.commit("main", "initial commit", {".gitattributes": Blob(b"*.safetensors filter=lfs\n")}, None)
        self.server.repositories[kind, repo_id] = repository
        return 200, {}, {"url": url, "name": repo_id, "id": repo_id}

    def _answer_repository(self, repository: Repository, rest: list[str]):
        action, revision, path = [*rest, ""][0], [*rest, "", "main"][1] or "main", "/".join(rest[2:])
        if action in ("", "revision"):
            return 200, {}, self._describe(repository, self._revision(repository, revision))
        if action == "settings":
            request = self._json()
            repository.private = request.get("private", request.get("visibility") == "private")
            return 200, {}, {}
        if action == "refs":
            refs = [{"name": name, "ref": name, "targetCommit": oid} for name, oid in repository.refs.items()]
            kinds = {
                "tags": [ref for ref in refs if ref["name"] in repository.tags],
                "pullRequests": [ref for ref in refs if ref["name"].startswith("refs/pr/")],
            }
            kinds["branches"] = [ref for ref in refs if ref not in [*kinds["tags"], *kinds["pullRequests"]]]
            return 200, {}, kinds | {"converts": []}
        if action in ("branch", "tag"):
            return self._set_ref(repository, action, revision)
        if action in ("xet-write-token", "xet-read-token"):
            return self._xet_token()
        commit = self._revision(repository, revision)
        answers = {
            "commits": lambda: [
                {"id": c.oid, "title": c.title, "message": "", "date": "2026-01-01T00:00:00.000Z", "authors": []}
                for c in repository.history(revision)
            ],
            "tree": lambda: self._tree(commit, path),
            "paths-info": lambda: self._paths_info(commit),
            "preupload": lambda: self._preupload(commit),
            "commit": lambda: self._commit(repository, revision, commit),
        }
        if action not in answers:
            raise HubError(404, f"Not found: {self.path}")
        return 200, {}, answers[action]()

    def _set_ref(self, repository: Repository, action: str, name: str):
        """Create or delete a branch or a tag.

        The path names a branch, which starts at `startingPoint`. The body names a tag, and the path its revision.
        """
        if self.command == "DELETE":
            repository.refs.pop(name, None)
            repository.tags.discard(name)
            return 200, {}, {}
        request = self._json()
        new, start = (request["tag"], name) if action == "tag" else (name, request.get("startingPoint", "main"))
        if new in repository.refs:
            raise HubError(409, f"Reference {new} already exists")
        repository.refs[new] = self._revision(repository, start).oid
        repository.tags |= {new} if action == "tag" else set()
        return 200, {}, {}

    def _describe(self, repository: Repository, commit: Commit) -> dict:
        siblings = [{"rfilename": path, "size": blob.size, "blobId": blob.oid} for path, blob in commit.files.items()]
        return {
            "_id": ZERO_OID[:24],
            "id": repository.id,
            "modelId": repository.id,
            "sha": commit.oid,
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "tags": [],
            "siblings": siblings,
        }

    @staticmethod
    def _entry(path: str, blob: Blob) -> dict:
        entry = {"type": "file", "path": path, "oid": blob.oid, "size": blob.size}
        if blob.is_lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
        return entry | ({"xetHash": blob.xet_hash} if blob.xet_hash else {})

    def _tree(self, commit: Commit, folder: str) -> list[dict]:
        prefix = f"{folder}/" if folder else ""
        below = {path: blob for path, blob in commit.files.items() if path.startswith(prefix)}
        if folder and not below:
            raise HubError(404, f'"{folder}" does not exist', "EntryNotFound")
        folders = {path.rpartition("/")[0] for path in below} - {"", folder}
        entries = [{"type": "directory", "path": path, "oid": ZERO_OID, "size": 0} for path in sorted(folders)]
        entries += [self._entry(path, blob) for path, blob in below.items()]
        if _is_true(self.query.get("recursive")):
            return entries
        return [entry for entry in entries if "/" not in entry["path"][len(prefix) :]]

    def _paths_info(self, commit: Commit) -> list[dict]:
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = self._json()["paths"]
        else:
            paths = parse_qs(self.body.decode())["paths"]
        return [self._entry(path, commit.files[path]) for path in paths if path in commit.files]

    def _preupload(self, commit: Commit) -> dict:
        def mode(file):
            is_large = file["path"].endswith(".safetensors") or file["size"] > SMALL_FILE
            return "lfs" if is_large and self.server.transfer != "regular" else "regular"

        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": mode(file),
                    "shouldIgnore": False,
                    "oid": self._content_id(commit, file["path"]),
                }
                for file in self._json()["files"]
            ]
        }

    @staticmethod
    def _content_id(commit: Commit, path: str) -> str | None:
        blob = commit.files.get(path)
        return blob and (blob.sha256 if blob.is_lfs else blob.oid)

    def _commit(self, repository: Repository, revision: str, parent: Commit) -> dict:
        operations = [json.loads(line) for line in self.body.splitlines()]
        header = next(operation["value"] for operation in operations if operation["key"] == "header")
        if header.get("parentCommit") not in (None, parent.oid):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(parent.files)
        for operation in operations:
            self._apply(operation["key"], operation["value"], files)
        pull_request_url, ref = None, revision
        if _is_true(self.query.get("create_pr")):
            repository.pull_requests += 1
            ref = f"refs/pr/{repository.pull_requests}"
            pull_request_url = f"{self.server.url}/{repository.id}/discussions/{repository.pull_requests}"
        elif revision not in repository.refs or revision in repository.tags:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        commit = repository.commit(ref, header.get("summary", ""), files, parent)
        return {
            "success": True,
            "commitOid": commit.oid,
            "commitUrl": f"{self.server.url}/{repository.id}/commit/{commit.oid}",
            "pullRequestUrl": pull_request_url,
            "hookOutput": "",
        }

    def _apply(self, key: str, value: dict, files: dict[str, Blob]) -> None:
        path = value.get("path", "")
        if ".." in path.split("/") or path.startswith("/"):
            raise HubError(400, f"Invalid path: {path!r}")
        if key == "file":
            files[path] = Blob(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            files[path] = self._lfs_blob(value)
        elif key in ("deletedFile", "deletedFolder"):
            prefix = path.rstrip("/") + "/"
            for name in [name for name in files if name == path or name.startswith(prefix)]:
                del files[name]

    # Large files

    def _lfs_blob(self, value: dict) -> Blob:
        if value["oid"] in self.server.objects:
            return Blob(self.server.objects[value["oid"]], is_lfs=True)
        xet_hash = self.server.stored_in_xet(value["oid"])
        if xet_hash is None:
            raise HubError(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
        return Blob(b"", is_lfs=True, xet_hash=xet_hash, size=value["size"], sha256=value["oid"])

    def _answer_lfs_batch(self, repository: Repository):
        request = self._json()
        if self.server.transfer == "xet" and "xet" in request.get("transfers", []):
            objects = [{"oid": o["oid"], "size": o["size"], "actions": {}} for o in request["objects"]]
            return 200, {}, {"transfer": "xet", "objects": objects}
        objects = []
        for item in request["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.server.objects:
                href = f"{self.server.url}/lfs-objects/{item['oid']}"
                entry["actions"] = {"upload": {"href": href, "header": {}}}
            objects.append(entry)
        return 200, {}, {"transfer": "basic", "objects": objects}

    def _answer_object(self, oid: str):
        if self.command != "PUT":
            raise HubError(404, "Objects are downloaded through their repository")
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "The content does not match its sha256")
        self.server.objects[oid] = self.body
        return 200, {}, b""

    def _xet_token(self):
        """A token whose storage is a local folder: in headers for huggingface_hub, and as content for hf_xet."""
        token = {
            "casUrl": f"local://{self.server.xet_folder}",
            "exp": int(time.time()) + LINK_EXPIRES_IN,
            "accessToken": "xet_token",
        }
        names = {"casUrl": "X-Xet-Cas-Url", "exp": "X-Xet-Token-Expiration", "accessToken": "X-Xet-Access-Token"}
        return 200, {names[key]: str(value) for key, value in token.items()}, token

    def _answer_resolve(self, repository: Repository, revision: str, path: str):
        commit = self._revision(repository, revision)
        blob = commit.files.get(path)
        if blob is None:
            raise HubError(404, f'"{path}" does not exist', "EntryNotFound")
        headers = {
            "X-Repo-Commit": commit.oid,
            "ETag": f'"{self._content_id(commit, path)}"',
            "Accept-Ranges": "bytes",
        }
        if blob.is_lfs:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        if blob.xet_hash:
            kind_and_id = f"{repository.kind}/{repository.id}"
            route = f"{self.server.url}/api/{kind_and_id}/xet-read-token/{commit.oid}"
            headers |= {"X-Xet-Hash": blob.xet_hash, "X-Xet-Refresh-Route": route, "Content-Length": str(blob.size)}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None or self.command == "HEAD":
            return 200, headers, blob.data
        start, end = int(match[1]), min(int(match[2] or blob.size - 1), blob.size - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{blob.size}"
        return 206, headers, blob.data[start : end + 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8750)
    parser.add_argument("--transfer", choices=["lfs", "regular", "xet"], default="lfs")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with HubServer(args.transfer, args.port) as hub, contextlib.suppress(KeyboardInterrupt):
        tokens = ", ".join(f"{token} is {user}" for token, user in USERS.items())
        print(f"A stand-in for the Hub at {hub.url} until Ctrl-C; tokens: {tokens}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()

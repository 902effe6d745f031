"""A new scheme is two new files: with them a toy scheme works everywhere in a copy of the packages."""

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.model_folders import ROOT, model_folder

ROW = """
import re

from quantmill.recipe.scheme_row import Scheme, Watch, last_part

SCHEME = Scheme(
    name="NAME",
    prefix="NAME://",
    title="a toy",
    form="NAME://box/model",
    rule="NAME://box/model",
    example="NAME://box/model",
    parse=re.compile(r"(?P<box>.*)/(?P<model>[^/]+)").fullmatch,
    model_name=lambda source: f"toy-{last_part(source)}",
    revision="",
    remote=REMOTE,
    third_party=REMOTE,
    on_hub=False,
    watch=Watch(form="NAME://box/pattern", place=str, settles=False),
)
"""
LOCAL = """
from pathlib import Path

from tasks.source.sights import NotYet


def locate(source):
    return Path(source.removeprefix("NAME:/"))


def find_models(place, wanted, home):
    yield NotYet(f"{place}/tiny", "a toy")
"""
REMOTE = """
import hashlib
import shutil
from pathlib import Path

from quantmill.recipe.recipe import ModelRequest
from tasks.source import remote
from tasks.source.local import require_revision
from tasks.source.sights import Found, Sight


class Box:
    fetches = True

    def __init__(self, request, home):
        self._request, self._cache = request, home / "fetched" / "box"
        self._folder = Path(request.source.removeprefix("NAME:/"))
        self.listing = {path.name: remote.Listed(path.stat().st_size, "1") for path in self._folder.iterdir()}
        self.stamp = sorted(self.listing)

    def preview(self):
        return remote.preview(self._request.source, self)

    def inspect(self):
        return require_revision(remote.take(self._request, self, self._cache))

    def fetch(self, origin):
        return remote.again(origin, lambda: self, self._cache)

    def read_file(self, name, target, advance):
        shutil.copyfile(self._folder / name, target)
        return hashlib.sha256(target.read_bytes()).hexdigest()


open_source = Box


def find_models(place, wanted, home):
    def look():
        return Sight(f"{place}/tiny", ModelRequest(source=f"{place}/tiny"), "1", {})

    yield Found(f"{place}/tiny", "1", 1.0, look)
"""
WALK = """
import json, sys
from pathlib import Path
import quantmill
from flows import jobs
from flows.watch import entries_for
from quantmill.errors import QuantmillError
from quantmill.recipe.recipe_file import editor_schema, parse_recipe
from quantmill.settings import Settings
from quantmill.store.places import open_store
from tasks.landing import landings, places as watched
from tasks.model import licences
from tasks.source import download, places
name, box, home = sys.argv[1], sys.argv[2], Path(sys.argv[3])

def refusal(source):
    try:
        download.preview_source(recipe.model.model_copy(update={"source": source}), home)
    except QuantmillError as error:
        return str(error)

recipe = parse_recipe({"model": {"source": f"{name}:/{box}/tiny"}, "variants": [{"method": "gguf", "type": "Q8_0"}]})
preview = download.preview_source(recipe.model, home)
origin = download.inspect_source(recipe.model, home)
(entry,) = entries_for("", Path("list.yaml"))
(sight,) = watched.look(entry, home, lambda model, revision: False)
landing = landings.describe(sight, entry, open_store(home / "store")) if hasattr(sight, "request") else None
print(json.dumps({
    "tree": quantmill.__file__,
    "model_name": recipe.model_name,
    "plan_name": jobs.model_name(recipe),
    "remote": recipe.model.remote,
    "licence": licences.obstacle(origin, Settings().licenses),
    "files": [file.path for file in origin.files],
    "sizes": [preview.size_bytes, preview.download_bytes, origin.size_bytes, origin.download_bytes],
    "fetched": sorted(path.name for path in places.open_source(recipe.model, home).fetch(origin).iterdir()),
    "sight": sight.model,
    "landed": landing.recipe["model"]["source"] if landing else "",
    "in_schema": f"{name}://box/model (a toy)" in json.dumps(editor_schema()),
    "malformed": refusal(f"{name}://x"),
    "unknown": refusal("nobody://x"),
    "watched_by": entries_for(f"{name}:/{box}/tiny", Path("list.yaml"))[0].scheme.name,
}))
"""


@pytest.mark.parametrize("remote", [True, False])
def test_a_new_scheme_is_two_files(tmp_path: Path, remote: bool) -> None:
    name, tree, box = f"toy{secrets.token_hex(3)}", tmp_path / "tree", tmp_path / "box"
    for package in ("quantmill", "tasks", "flows"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.lock", tree)
    row = ROW.replace("REMOTE", str(remote)).replace("NAME", name)
    (tree / "quantmill" / "recipe" / "schemes" / f"{name}.py").write_text(row)
    work = (REMOTE if remote else LOCAL).replace("NAME", name)
    (tree / "tasks" / "source" / "schemes" / f"{name}.py").write_text(work)
    box.mkdir()
    model_folder(box / "tiny")
    (tmp_path / "home").mkdir()
    source = f"{name}:/{box}/tiny"
    recipe: dict[str, Any] = {"model": {"source": "x"}, "variants": [{"method": "gguf", "type": "Q8_0"}]}
    (tree / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    watched = [{"source": f"{name}:/{box}/t*", "recipe": "recipe.yaml"}]
    (tree / "list.yaml").write_text(yaml.safe_dump({"watch": watched}))
    done = subprocess.run(
        [sys.executable, "-c", WALK, name, str(box), str(tmp_path / "home")],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    size = sum(path.stat().st_size for path in (box / "tiny").iterdir())
    fetched = size if remote else 0
    assert seen.pop("tree").startswith(str(tree))
    assert seen.pop("malformed") == f"model.source: {name}://x: write it as {name}://box/model"
    assert f"{name}://box/model" in seen.pop("unknown").partition("allowed are")[2]
    assert ("its source states no licence" in seen.pop("licence")) == remote
    assert seen.pop("fetched")[-3:] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert seen == {
        "model_name": "toy-tiny",
        "plan_name": "toy-tiny",
        "remote": remote,
        "files": ["config.json", "model.safetensors", "tokenizer.json"],
        "sizes": [size, fetched, size, fetched],
        "sight": source,
        "landed": source if remote else "",
        "in_schema": True,
        "watched_by": name,
    }

"""Upload local folders of a runtime environment to the cluster, as Ray's packages."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from operators.compute.client import RayJobs
from operators.core.errors import ConfigurationError
from operators.core.explain_error import suggestion
from operators.core.extras import require

# Ray ignores a field that it does not know: a mistyped `env_vars` would be missing without a word.
KNOWN_FIELDS = frozenset(
    {
        "_inject_current_ray", "_nsight", "_ray_commit", "_ray_release", "_rocprof_sys", "conda", "config", "container",
        "env_vars", "excludes", "image_uri", "java_jars", "pip", "py_executable", "py_modules", "uv", "working_dir",
        "worker_process_setup_hook",
    }
)  # fmt: skip
MOST_BYTES = 500 * 1024 * 1024  # Ray's own limit for a package (GCS_STORAGE_MAX_SIZE)


def upload_local(runtime_env: Mapping[str, Any], jobs: RayJobs) -> dict[str, Any]:
    """Return the runtime environment with each local folder replaced by the URI of its package.

    Ray is imported only if there is a local folder, because the import takes seconds. Ray's own client is not used, because
    environment variables can redirect it to another cluster.

    :raises ConfigurationError: a folder does not exist, or is too large; or Ray has no such field
    """
    fields = dict(runtime_env)
    for name in fields:
        if name not in KNOWN_FIELDS:
            meant = suggestion(name, sorted(KNOWN_FIELDS))
            raise ConfigurationError(f"Ray's runtime environment has no {name!r}; {meant}")
    if isinstance(fields.get("working_dir"), str | os.PathLike):
        fields["working_dir"] = _uri(str(fields["working_dir"]), jobs, fields.get("excludes"), keep_name=False)
    if fields.get("py_modules"):
        fields["py_modules"] = [
            _uri(str(module), jobs, fields.get("excludes"), keep_name=True) for module in fields["py_modules"]
        ]
    return fields


def _uri(source: str, jobs: RayJobs, excludes: Any, *, keep_name: bool) -> str:
    if "://" in source:
        return source
    path = Path(source).expanduser().resolve()
    if not path.exists():
        raise ConfigurationError(f"the runtime environment names {source!r}, but {path} does not exist")
    require("ray", "ray", purpose=f"packing {source}")
    from ray._private.runtime_env.packaging import create_package, get_uri_for_directory, get_uri_for_package

    if path.is_file():
        if path.suffix not in (".zip", ".whl"):
            raise ConfigurationError(
                f"the runtime environment names the file {source!r}; use a folder, a .zip or a .whl"
            )
        uri, data = get_uri_for_package(path), path.read_bytes()
    else:
        uri = get_uri_for_directory(str(path), True, excludes=list(excludes or []))
        with tempfile.TemporaryDirectory(prefix="taxiway-package-") as folder:
            package = Path(folder) / "package.zip"
            create_package(
                str(path), package, include_gitignore=True, include_parent_dir=keep_name, excludes=list(excludes or [])
            )
            data = package.read_bytes()
    if len(data) > MOST_BYTES:
        raise ConfigurationError(
            f"{source!r} is {len(data):,} bytes when packed; Ray takes {MOST_BYTES:,}. List what is not needed in `excludes`, "
            "or put the package into object storage and give its URI"
        )
    jobs.upload(uri, data)
    return uri

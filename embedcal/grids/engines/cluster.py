"""A Ray cluster: the one that is there, or one of this machine that lasts as long as its block."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from embedcal.grids.engines.processes import cores
from embedcal.types import EmbedcalError

ROOM = 200 << 20  # bytes of a local object store beside the features: runs on their way back

# Ray's own defaults for a cluster on this machine alone would listen to the network and report to
# its makers.
LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


# Who may talk to such a cluster: Ray reads this once, when it is imported, so that what held then
# must hold ever after. Empty where somebody else imported it: then it is as they had it.
_access: dict[str, str] = {}


@contextmanager
def cluster(workers: int | None, size: int) -> Iterator[Any]:
    """Ray, connected to a cluster that is there, or to one that lasts as long as the block."""
    with ExitStack() as ends:
        address = os.environ.get("RAY_ADDRESS") or _started()
        if not address:
            temporary = ends.enter_context(_local_environment())
        try:
            import ray
        except ImportError:
            _access.clear()
            raise EmbedcalError(
                "expected Ray for --engine ray, found it missing: pip install 'embedcal[ray]', or "
                "use --engine processes"
            ) from None
        if ray.is_initialized():  # the caller's own connection: neither made nor ended here
            yield ray
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if address:
            try:
                ray.init(address=address, **quiet)
            except (ConnectionError, RuntimeError, ValueError) as error:
                reason = str(error).strip().splitlines()[0]
                raise EmbedcalError(
                    f"expected a Ray cluster at {address}, found: {reason}: start it, or unset "
                    "RAY_ADDRESS (after ray start: ray stop) to use this machine alone"
                ) from None
        else:
            ray.init(
                address="local",
                num_cpus=workers or cores(),
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=size * 5 // 4 + ROOM,
                _temp_dir=temporary,
                **quiet,
            )
        ends.callback(ray.shutdown)
        yield ray


def _started() -> str | None:
    """The address that ``ray start`` leaves on a machine of its cluster."""
    with suppress(OSError):
        return (Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster").read_text().strip()
    return None


@contextmanager
def _local_environment() -> Iterator[str]:
    """Ray's variables for a cluster of this machine alone, and a folder for its sockets.

    Their paths hold 107 bytes, which a user's own temporary folder may leave no room for.
    """
    short = Path("/tmp") if Path("/tmp").is_dir() else None
    if "ray" not in sys.modules:
        _access.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    ours = {**LOCAL, **_access}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    folder = tempfile.mkdtemp(prefix="ec-", dir=short)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

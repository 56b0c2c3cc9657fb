"""Whether pretrained weights can be had, found out without loading them and without waiting for a network."""

from __future__ import annotations

import os
import socket
import threading
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from distill.config.net_names import HUBS, LOCAL
from distill.config.our_nets import OUR_NETS
from distill.run_folder import HUB_FILES

_PATIENCE = 4.0  # seconds, for a name to be found and a host to answer


def check_pretrained(name: str, key: str) -> None:
    """Raise ValueError where weights of a net of timm's lie in no cache here and cannot be fetched either.

    key: of the configuration, that asks for them and takes a file in their place.
    """
    instead = f"give a file of them, {key}=FILE"
    if name in OUR_NETS:
        raise ValueError(f"{key}=pretrained: {name} has no published weights to download: {instead}")
    if name.startswith(LOCAL):
        return
    repository, file, address = _source(name)
    if not (repository or file or address):
        raise ValueError(f"{key}=pretrained: timm has no weights of {name}: {instead}")
    if file or (repository and _in_hubs_cache(repository)) or (address and _in_torchs_cache(address)):
        return
    host = _hub() if repository else str(urlsplit(address).hostname)
    if not reachable(host):
        raise ValueError(
            f"{key}=pretrained: the weights of {name} are in no cache here, and {host} cannot be reached: {instead}"
        )


def _source(name: str) -> tuple[str, str, str]:
    """The Hub's repository, the file and the address that timm takes a net's weights from, the first that there is."""
    if name.startswith(HUBS):
        return name.split(":", 1)[1], "", ""
    import timm  # takes seconds

    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if known is None:
        return "", "", ""
    file = str(known.file or "")
    return ("" if file else str(known.hf_hub_id or "")), file, str(known.url or "")


def _in_hubs_cache(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = repository.partition("@")
    found = (try_to_load_from_cache(name, file, revision=revision or None) for file in HUB_FILES)
    return any(isinstance(path, str) for path in found)


def _in_torchs_cache(address: str) -> bool:
    from torch import hub

    return Path(hub.get_dir(), "checkpoints", os.path.basename(urlsplit(address).path)).is_file()


def _hub() -> str:
    import huggingface_hub.constants as hub

    return str(urlsplit(hub.ENDPOINT).hostname)


@cache
def reachable(host: str) -> bool:
    """Whether a host, or the proxy before it, answers within seconds; asked once a process."""
    import huggingface_hub.constants as hub

    if hub.HF_HUB_OFFLINE and host == _hub():
        return False
    proxy = urlsplit(getproxies().get("https", ""))
    answered: list[bool] = []

    def call() -> None:  # a thread, for looking up a name knows no patience
        try:
            with socket.create_connection((proxy.hostname or host, proxy.port or 443), timeout=_PATIENCE):
                answered.append(True)
        except OSError:
            pass

    asking = threading.Thread(target=call, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return bool(answered)

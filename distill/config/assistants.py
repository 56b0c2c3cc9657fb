"""A method whose paper teaches through assistants (`about.chain: true`), told where no chain of them is given."""

from __future__ import annotations

from omegaconf import DictConfig

from distill.config.groups import plain


def note_of_assistants(cfg: DictConfig) -> str | None:
    """One line where a method of chains has neither a chain nor the word that one net is all of it; else None."""
    method = plain(cfg, "method")
    if not (method.get("about") or {}).get("chain") or (plain(cfg, "teacher") or {}).get("chain"):
        return None
    teacher = plain(cfg, "teacher.name")
    return (
        f"method={method['name']} teaches through assistants, and here {teacher} teaches by itself: "
        f"teacher.chain=[{teacher},ASSISTANT] puts a net between (teacher.chain=[{teacher}]: none, on purpose)"
    )

"""What an optional part needs, where it is not installed."""

from __future__ import annotations


class MissingExtraError(ImportError):
    """An optional part is not installed; the message names its requirements."""


def missing_extra(what: str, extra: str, error: ImportError) -> MissingExtraError:
    """The error for ``what``, with the requirements of ``extra`` by our own metadata.

    Never our own name, which may be a stranger's on the package index.
    """
    from importlib import metadata

    from packaging.requirements import Requirement

    try:
        listed = [Requirement(text) for text in metadata.requires("revenuebase-compat") or ()]
    except metadata.PackageNotFoundError:  # a copy of the source
        listed = []
    needed = [
        f"'{one.name}{one.specifier}'"
        for one in listed
        if one.marker and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate()
    ]
    how = f"pip install {' '.join(needed)}" if needed else f"there is no module {error.name}"
    return MissingExtraError(f"{what} needs what is not installed: {how}", name=error.name)

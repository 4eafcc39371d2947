"""The native extension, which the runtime is made of."""

from __future__ import annotations

import os
from types import ModuleType

from polychron.errors import InputError

try:
    from polychron import _native

    native: ModuleType | None = _native
    _missing = ""
except ImportError as error:
    native = None
    _missing = str(error)


def require_native() -> ModuleType:
    """The extension, its kernels those that ``POLYCHRON_KERNEL`` names, if it names any.

    Raises:
        InputError: the extension is missing, or has no such kernels on this machine.
    """
    if native is None:
        raise InputError(f"the runtime needs polychron's native extension, which is missing ({_missing}): reinstall it")
    name = os.environ.get("POLYCHRON_KERNEL")
    if name and name != "reference" and not native.use_kernels(name):
        raise InputError(
            f"POLYCHRON_KERNEL must be one of reference, {', '.join(native.available_kernels())}; got {name!r}"
        )
    return native

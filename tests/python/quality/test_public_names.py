"""What `tinyllm` shows: its public names, and nothing that the code happens to import."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import tinyllm


def import_everything() -> None:
    for module in pkgutil.walk_packages(tinyllm.__path__, "tinyllm."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def test_dir_has_the_public_names_only() -> None:
    import_everything()
    assert [name for name in dir(tinyllm) if not name.startswith("__")] == sorted(tinyllm.__all__)
    assert "__version__" in dir(tinyllm)


def test_attributes_are_public_names_or_modules_of_the_package() -> None:
    """Python makes every imported module an attribute of its package; none may take the place of a public name."""
    import_everything()
    assert tinyllm.load  # which brings all public names into the package
    public = {name: value for name, value in vars(tinyllm).items() if not name.startswith("_")}
    modules = {name for name, value in public.items() if isinstance(value, ModuleType)}
    assert public.keys() - modules == set(tinyllm.__all__)
    assert all(public[name].__name__ == f"tinyllm.{name}" for name in modules)


def test_devices_is_the_function() -> None:
    import_everything()
    assert tinyllm.devices()[0].device == "cpu"

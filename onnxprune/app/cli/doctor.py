"""``doctor``: the abilities of this machine and of this installation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxprune.app.cli.conventions import Facts, command

if TYPE_CHECKING:
    from rich.console import RenderableType

_EXTRAS = {
    "pillow": ("folders of pictures", "onnxprune[data]"),
    "tokenizers": (".jsonl files of texts", "onnxprune[data]"),
    "jinja2": ("report pages", "onnxprune[report]"),
    "joblib": ("ana --workers", "onnxprune[parallel]"),
    "matplotlib": ("figures as PNG or PDF", "onnxprune[figures]"),
}


def render(facts: Facts) -> RenderableType:
    """Show tables of providers and of packages."""
    from rich.console import Group

    from onnxprune.app.figures import table

    providers = table(("provider", "state"), ((p["name"], p["state"]) for p in facts["providers"]))
    columns = ("name", "state", "use")
    packages = table(("package", *columns[1:]), ([p[c] for c in columns] for p in facts["packages"]))
    machine = facts["machine"]
    line = (
        f"onnxprune {facts['version']}, Python {machine['python']}, {facts['runtime']['package']} "
        f"{facts['runtime']['version']}; {machine['system']} {machine['architecture']}, "
        f"{machine['processors']} processors\n"
    )
    hints = "".join(f"\n{hint}" for hint in facts["hints"])
    return Group(line, providers, "", packages, hints)


@command("doctor", render)
def doctor() -> Facts:
    """Show the execution providers of this machine, the optional packages, and missing installations."""
    import platform
    from dataclasses import asdict

    from onnxprune import __version__
    from onnxprune.runtime import runtime_info
    from onnxprune.runtime.execution import PACKAGES
    from onnxprune.support.processors import usable_processors

    providers, packages = _providers(), [_package(name, *purpose) for name, purpose in _EXTRAS.items()]
    training = _training()
    hints = [f'for {p["use"]}: pip install "{p["install"]}"' for p in packages if p["state"] == "missing"]
    hints += [f"for {training['use']}: {training['install']}"] if training["install"] else []
    known = {p["name"] for p in providers}
    missing = [short for short in PACKAGES if short not in known]
    for package in dict.fromkeys(PACKAGES[short] for short in missing):
        names = ", ".join(short for short in missing if PACKAGES[short] == package)
        hints.append(f"for --provider {names}: {package} in place of onnxruntime")
    machine = {
        "python": platform.python_version(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "processors": usable_processors(),
    }
    return {
        "version": __version__,
        "machine": machine,
        "runtime": asdict(runtime_info()),
        "providers": providers,
        "packages": [*packages, training],
        "hints": hints,
    }


def _providers() -> list[dict[str, str]]:
    """Try each provider of the installed onnxruntime on a small model."""
    from onnxprune.errors import OnnxpruneError
    from onnxprune.runtime.execution import ExecutionConfig, available
    from onnxprune.runtime.probe import probe

    found = []
    for full in available():
        config = ExecutionConfig(full)
        try:
            probe(config)
            state = "works"
        except OnnxpruneError as error:
            state = f"does not work: {error.message.removeprefix(f'provider {config.name} ')}"
        found.append({"name": config.name, "provider": full, "state": state})
    return found


def _package(name: str, use: str, install: str) -> dict[str, str]:
    from importlib import metadata

    try:
        state = metadata.version(name)
    except metadata.PackageNotFoundError:
        state = "missing"
    return {"name": name, "state": state, "use": use, "install": install}


def _training() -> dict[str, Any]:
    """Return the state of the training build."""
    from onnxprune.errors import TrainingError
    from onnxprune.train.sidecar import SETUP_COMMAND, training_runtime

    use = "finetune --engine ort-training"
    try:
        training_runtime()
    except TrainingError:
        return {"name": "onnxruntime-training", "state": "not set up", "use": use, "install": SETUP_COMMAND}
    return {"name": "onnxruntime-training", "state": "ready", "use": use, "install": ""}

"""The options of `cosim prune`: one for each field of its recipe, and where things are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic.fields import FieldInfo
from rich.console import Console

from cosim.prune_run.recipe import PruneRecipe, make_recipe, option

_SHORT = {"network": "-n", "dataset": "-d", "accelerator": "-a"}
_PANELS = {
    "Network and data": ("network", "dataset", "seed", "all_images", "from_", "dense_"),
    "What stays": ("plan", "keep", "macs", "parameters", "latency", "energy", "accelerator", "selection", "criterion",
                   "variant", "by_readers", "normalisation", "min_share", "multiple", "exclude"),
    "Steps": ("schedule", "step", "sensitivity"),
    "Masks and bits": ("method", "straight_through", "granularity", "k", "n", "density", "refit",
                       "weight_bits", "activation_bits"),
    "Fine-tuning": ("epochs", "lr", "optimizer", "weight_decay", "distill", "batch_size", "crop", "flip", "precision",
                    "device", "threads"),
}  # fmt: skip
_KINDS: tuple[type, ...] = (bool, float, int, Path)
_PLACES = {
    "recipe": (Path | None, "File of these options (YAML, names with _); those given here win."),
    "out": (Path | None, "Folder of the run; default runs/prune-NETWORK."),
    "resume": (bool, "Go on with the run in the folder, to the same bits."),
    "weights": (Path | None, "Weights that belong to the plan: measure them, train nothing."),
    "data": (Path | None, "Folder of data sets; default $COSIM_DATA, else ./data."),
    "download": (bool, "Fetch the data set from its official address if it is not there."),
    "json": (Path | None, "Also write what the screen shows, in full."),
}


def run_prune(arguments: Sequence[str], help_text: str, console: Console) -> int:
    """Read the arguments of `cosim prune` and run it."""
    app = prune_app(help_text, console)
    return app(args=list(arguments), prog_name="cosim prune", standalone_mode=False) or 0


def prune_app(help_text: str, console: Console) -> typer.Typer:
    """An application of this one command."""
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    app.command("prune", help=help_text)(_command(console))
    return app


def _command(console: Console) -> Callable[..., None]:
    """A function with the parameters that typer is to offer."""

    def prune(**given: Any) -> None:
        from cosim.commands.prune import Places, run_prune_command

        places = {name: given.pop(name) for name in _PLACES}
        file = places.pop("recipe")
        chosen = {name: value for name, value in given.items() if value not in (None, [], ())}
        run_prune_command(make_recipe(chosen, file), Places(**places), console)

    parameters = [*_recipe_parameters(), *_place_parameters()]
    prune.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    prune.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return prune


def _recipe_parameters() -> Iterator[inspect.Parameter]:
    for name, field in PruneRecipe.model_fields.items():
        told = not field.is_required() and field.default not in (None, ()) and field.default is not False
        flag = option(name)
        flags = [f"{flag}/--no-{flag[2:]}"] if _kind(field) == bool | None else [flag]
        info = typer.Option(
            None,
            *flags,
            *([_SHORT[name]] if name in _SHORT else []),
            help=(field.description or "").replace("\n", " "),
            show_default=str(field.default) if told else False,
            rich_help_panel=_panel(name),
        )
        yield _parameter(name, _kind(field), info)


def _place_parameters() -> Iterator[inspect.Parameter]:
    for name, (kind, text) in _PLACES.items():
        default = False if kind is bool else None
        info = typer.Option(default, option(name), help=text, show_default=False, rich_help_panel="Files")
        yield _parameter(name, kind, info)


def _parameter(name: str, kind: Any, info: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=kind)


def _kind(field: FieldInfo) -> Any:
    """What typer reads a text as: a number or a path; names and choices are checked by the recipe."""
    types = set(_types(field.annotation))
    if tuple in types:
        return list[str] | None
    return next((kind for kind in _KINDS if kind in types), str) | None


def _types(annotation: Any) -> Iterator[Any]:
    origin = getattr(annotation, "__origin__", None)
    if origin in (tuple, dict):
        yield origin
        return
    yield annotation
    for part in get_args(annotation):
        yield from _types(part)


def _panel(name: str) -> str:
    for title, starts in _PANELS.items():
        if any(name == start or (len(start) > 1 and name.startswith(start)) for start in starts):
            return title
    return "Options"

"""The command line: `cosim COMMAND --help` says what each command takes, with an example.

Exit codes: 0 done, 1 failed, 2 bad input (one line: what, where, what to do; `--debug` shows the traceback).
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from accel_models.errors import AccelError

app = typer.Typer(
    help=__doc__.splitlines()[0].split(":")[0] + " of the co-design simulator and search.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
console = Console(width=None if sys.stdout.isatty() else 120)
errors = Console(stderr=True)

INTERRUPTED = 130
FAILURES = ("TrainingError", "InfeasibleError")
"""Errors of good input that came to nothing."""

JsonOption = Annotated[
    Path | None, typer.Option("--json", dir_okay=False, help="Also write what the screen shows, in full.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", file_okay=False, help="Folder of the run; default runs/<name>.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="key=value: change one field, e.g. pe_array.rows=32. Repeatable.")
]

DataOption = Annotated[
    Path | None, typer.Option(file_okay=False, help="Folder of data sets; default $COSIM_DATA, else ./data.")
]

# of `simulate`
WorkloadOption = Annotated[
    str, typer.Option("-w", "--workload", help="Network name, ONNX file, SCALE-Sim topology CSV, or workload JSON.")
]
ObjectiveOption = Annotated[
    str, typer.Option(help="What mappings are chosen for: energy, latency, or edp (energy x latency).")
]
ModeOption = Annotated[
    str, typer.Option(help="ideal: everything overlaps; detailed: also first loads, last stores, requests.")
]
MasksOption = Annotated[
    Path | None, typer.Option(dir_okay=False, help="Masks, or weights whose zeros count, by layer: .safetensors.")
]
ActivationMasksOption = Annotated[
    Path | None, typer.Option(dir_okay=False, help="Captured inputs that are not 0, by layer, of `cosim capture`.")
]
DensityOption = Annotated[
    list[str] | None, typer.Option(help="Share of inputs that are not 0: layer=0.4, 0.4, or a JSON. Repeatable.")
]
CompareOption = Annotated[
    float | None, typer.Option(help="Where sparsity pays: every granularity at this density of the weights.")
]
SearchNodesOption = Annotated[
    int, typer.Option(min=0, help="Search longer for mappings of flexible arrays, e.g. 1000000 nodes a layer.")
]
ScalesimConfigOption = Annotated[
    Path | None, typer.Option(dir_okay=False, help="SCALE-Sim .cfg that describes the accelerator, instead of -a.")
]
ErtOption = Annotated[
    Path | None, typer.Option(dir_okay=False, help="Accelergy energy reference table that replaces prices of -a.")
]
ArtOption = Annotated[
    Path | None, typer.Option(dir_okay=False, help="Accelergy area reference table that replaces areas of -a.")
]
ScalesimReportsOption = Annotated[
    Path | None, typer.Option(file_okay=False, help="Also write SCALE-Sim's reports there (systolic arrays).")
]


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of bad input.")] = False,
) -> None:
    os.environ["COSIM_DEBUG"] = "1" if debug else ""


@app.command()
def search(
    study: Annotated[Path, typer.Argument(help="Study file, e.g. examples/digits.yaml.")],
    out: OutOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = min(os.cpu_count() or 1, 8),
    json_path: JsonOption = None,
) -> None:
    """Co-search accelerators and pruning plans: a Pareto front, with report, plans and weights.

    Example: `cosim search examples/digits.yaml`
    """
    from cosim.commands.search import run_search_command

    run_search_command(study, out, resume, workers, json_path, console)


@app.command()
def simulate(
    workload: WorkloadOption,
    accelerator: Annotated[str | None, typer.Option("-a", "--accelerator", help="Library name or YAML file.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Pruning plan to apply to a network.")] = None,
    settings: SetOption = None,
    objective: ObjectiveOption = "edp",
    mode: ModeOption = "detailed",
    masks: MasksOption = None,
    activation_masks: ActivationMasksOption = None,
    density: DensityOption = None,
    compare_granularities: CompareOption = None,
    search_nodes: SearchNodesOption = 0,
    scalesim_config: ScalesimConfigOption = None,
    ert: ErtOption = None,
    art: ArtOption = None,
    scalesim_reports: ScalesimReportsOption = None,
    json_path: JsonOption = None,
) -> None:
    """Cycles, energy and traffic of a network on an accelerator, layer by layer.

    Example: `cosim simulate -a edge_os_16x16 -w digits_resnet --set pe_array.rows=32`
    """
    from cosim.commands.simulate import OtherTools, SimulateRequest, ZeroFiles, run_simulate_command

    request = SimulateRequest(
        accelerator=accelerator,
        workload=workload,
        settings=settings or (),
        objective=objective,
        mode=mode,
        search_nodes=search_nodes,
        compare=compare_granularities,
        zeros=ZeroFiles(plan=plan, masks=masks, activation_masks=activation_masks, densities=density or ()),
        tools=OtherTools(scalesim_config=scalesim_config, ert=ert, art=art, scalesim_reports=scalesim_reports),
    )
    run_simulate_command(request, json_path, console)


@app.command()
def capture(
    network: Annotated[str, typer.Option("-n", "--network", help="Network name or module:function.")],
    dataset: Annotated[str, typer.Option("-d", "--dataset", help="Data set name.")],
    weights: Annotated[Path, typer.Option(dir_okay=False, help="Trained weights: those of the plan, if there is one.")],
    out: Annotated[Path, typer.Option("--out", dir_okay=False, help="File of masks, .safetensors.")],
    plan: Annotated[Path | None, typer.Option(help="Plan that the weights belong to.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Validation images to run.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Data split.")] = 0,
    data: DataOption = None,
    json_path: JsonOption = None,
) -> None:
    """Which inputs of every layer are not zero on real images, for `cosim simulate --activation-masks`.

    The JSON holds their share, as `cosim simulate --density` takes it.

    Example: `cosim capture -n digits_resnet -d digits --plan runs/digits/plans/p00.json
    --weights runs/digits/weights/p00.safetensors --out inputs.safetensors`
    """
    from cosim.commands.capture import CaptureRequest, run_capture_command

    request = CaptureRequest(
        network=network,
        dataset=dataset,
        weights=weights,
        out=out,
        plan=plan,
        images=images,
        seed=seed,
        data_root=data,
    )
    run_capture_command(request, json_path, console)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def prune(ctx: typer.Context) -> None:
    """Prune a network: filters by a criterion or k-of-n masks, within budgets; fine-tuned; table, figures, files.

    Example: `cosim prune -n digits_resnet -d digits --keep 0.5`

    Within a budget of energy: `cosim prune -n digits_resnet -d digits -a edge_os_16x16 --energy-mj 0.003`

    2:4 masks: `cosim prune -n digits_resnet -d digits --method dpp --k 2 --n 4 --exclude conv1`

    A recipe: `cosim prune --recipe examples/recipes/resnet56_cifar.yaml --from resnet56.pt`

    Measure a point of a front:
    `cosim prune -n digits_resnet -d digits --plan runs/digits/plans/p00.json
    --weights runs/digits/weights/p00.safetensors`
    """
    from cosim.commands.prune_options import run_prune

    raise typer.Exit(run_prune(ctx.args, ctx.command.help or "", console))


@app.command()
def report(directory: Annotated[Path, typer.Argument(help="Folder of a run, e.g. runs/digits.")]) -> None:
    """Write report.html and front.png of a run anew.

    Example: `cosim report runs/digits`
    """
    from cosim.report import write_report

    console.print(f"report: {write_report(directory)}")


@app.command()
def validate(
    name: Annotated[str | None, typer.Argument(help="Reference set; all that are available by default.")] = None,
    data: Annotated[Path | None, typer.Option(help="File or folder of the set's form.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Also write a page with every error, as docs/validation.md.")
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Compare the model with reference results and print every error.

    Example: `cosim validate scalesim --data ../shared/reference/scalesim`
    """
    from cosim.commands.validate import run_validate_command

    run_validate_command(name, data, markdown, json_path, console)


@app.command()
def plan(
    network: Annotated[str, typer.Option("-n", "--network", help="Network name or module:function.")],
    accelerator: Annotated[str, typer.Option("-a", "--accelerator", help="Library name or YAML file.")],
    latency_ms: Annotated[float | None, typer.Option(help="Budget of one inference, in ms.")] = None,
    energy_mj: Annotated[float | None, typer.Option(help="Budget of one inference, in mJ.")] = None,
    memory_kb: Annotated[
        float | None, typer.Option(help="Budget of stored weights and the peak of activations, in kB of 1024 bytes.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Trained weights, .pt or .safetensors: they say what matters.")
    ] = None,
    mixed_bits: Annotated[
        bool, typer.Option("--mixed-bits", help="Layers may have any weight width that the array multiplies at.")
    ] = False,
    out: Annotated[Path | None, typer.Option(dir_okay=False, help="Also write the plan file.")] = None,
    json_path: JsonOption = None,
) -> None:
    """A pruning plan without training: the most importance that budgets of latency, energy and memory leave.

    Example: `cosim plan -n digits_resnet -a edge_skip_16x16 --latency-ms 0.01 --out plan.json`
    """
    from cosim.commands.plan import PlanOptions, run_plan_command

    options = PlanOptions(
        network=network,
        accelerator=accelerator,
        latency_ms=latency_ms,
        energy_mj=energy_mj,
        memory_kb=memory_kb,
        weights=weights,
        mixed_bits=mixed_bits,
        out=out,
    )
    run_plan_command(options, json_path, console)


@app.command()
def export(
    network: Annotated[str, typer.Option("-n", "--network", help="Network name or module:function.")],
    out: Annotated[Path, typer.Option("--out", help="File (.onnx, .pt2), or folder for safetensors and plan.")],
    format_: Annotated[
        str, typer.Option("--format", help="onnx, program (torch.export, .pt2), or safetensors (weights and plan).")
    ] = "onnx",
    plan: Annotated[Path | None, typer.Option(help="Pruning plan to apply.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights: those that belong to the plan, else of the dense network.")
    ] = None,
    masks: Annotated[str, typer.Option(help="fold: masks are zeros among the weights; drop: dense weights.")] = "fold",
) -> None:
    """Write a network for others to run: it is loaded back, run and compared before the file appears.

    Example: `cosim export -n digits_resnet --plan runs/digits/plans/p00.json
    --weights runs/digits/weights/p00.safetensors --format onnx --out digits.onnx`
    """
    from cosim.commands.export import ExportRequest, run_export_command

    request = ExportRequest(network=network, format=format_, out=out, plan=plan, weights=weights, masks=masks)
    run_export_command(request, console)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP", help="Sweep file, e.g. examples/arrays.yaml.")],
    out: OutOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the sweep in the folder.")] = False,
    json_path: JsonOption = None,
) -> None:
    """Score a grid, or a million random samples, of systolic designs on one network; no training.

    Example: `cosim sweep examples/arrays.yaml`
    """
    from cosim.commands.sweep import run_sweep_command

    run_sweep_command(file, out, resume, json_path, console)


@app.command()
def accelerators(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.")] = None,
    json_path: JsonOption = None,
) -> None:
    """What ships, or a full card of one accelerator: every price with its source.

    Example: `cosim accelerators edge_skip_16x16`
    """
    from cosim.commands.accelerators import run_accelerators_command

    run_accelerators_command(name, json_path, console)


def main() -> None:
    """Run the command line; bad input ends with one line and exit code 2."""
    try:
        code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if os.environ.get("COSIM_DEBUG"):
            traceback.print_exc()
        code = _explain(error)
    if code == INTERRUPTED:
        errors.print("interrupted; what was finished is kept (continue a search with --resume)", soft_wrap=True)
    sys.exit(code)


def _explain(error: Exception) -> int:
    """One line for an error that has one, and the exit code; others are raised again."""
    if hasattr(error, "format_message"):  # of typer's parser: an unknown option, a missing argument
        text, code = f"{error.format_message()} (`cosim COMMAND --help` shows an example)", 2
    elif isinstance(error, OSError):
        text, code = str(error), 1
    elif _is_bad_input(error):
        text, code = str(error), 1 if type(error).__name__ in FAILURES else 2
    else:
        raise error
    errors.print("error:", " ".join(text.split()), markup=False, highlight=False, soft_wrap=True)
    return code


def _is_bad_input(error: Exception) -> bool:
    """Errors that the packages raise on purpose; those of torch-side packages only if they are loaded."""
    kinds: list[Any] = [AccelError]
    for module, name in (("cosim.errors", "CosimError"), ("search.errors", "SearchError")):
        if module in sys.modules:
            kinds.append(getattr(sys.modules[module], name))
    return isinstance(error, tuple(kinds))

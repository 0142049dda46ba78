"""The command line. Every command reads the settings once, here, and passes them down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from likeness import cli_erasure, cli_jobs, cli_mails, cli_styles, models
from likeness.plain import out, plainly, settings_with

OPERATORS = "For operators"

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Self-hosted portraits: fit a LoRA on a subject's photos, render styled portraits."
)
evaluate_app = typer.Typer(no_args_is_help=True, help="Measure likeness, prompt fidelity and leakage.")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(cli_jobs.app, name="jobs", rich_help_panel=OPERATORS)
app.add_typer(cli_mails.app, name="mails", rich_help_panel=OPERATORS)
app.add_typer(cli_styles.app, name="styles", rich_help_panel=OPERATORS)
app.add_typer(models.app, name="models", rich_help_panel=OPERATORS)
for command in cli_erasure.COMMANDS:
    app.command(rich_help_panel=OPERATORS)(command)

Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on.")]


def main() -> None:
    app()


@app.command()
@plainly
def up(
    host: Host = None,
    port: Port = None,
    while_input_lasts: Annotated[bool, typer.Option(help="Stop when standard input ends: with the program that started this.")] = False,
) -> None:
    """Start the whole service on this machine: broker, API and pages, scheduler and workers."""
    from likeness.up import run_up

    run_up(settings_with(host=host, port=port), while_input_lasts=while_input_lasts)


@app.command()
@plainly
def api(host: Host = None, port: Port = None) -> None:
    """Serve the API and the pages."""
    import uvicorn

    from api.app import create_app

    settings = settings_with(host=host, port=port)
    level = settings.log_level.lower()
    server = create_app(settings)
    uvicorn.run(server, host=settings.host, port=settings.port, log_level=level, log_config=None, timeout_graceful_shutdown=5)


@app.command()
@plainly
def worker(
    role: Annotated[Literal["train", "render", "both"], typer.Argument(help="Which queue to work on; both: each GPU does both.")],
    gpus: Annotated[int, typer.Option(min=0, help="Use so many GPUs; 0: all that CUDA_VISIBLE_DEVICES or the driver names.")] = 0,
) -> None:
    """Work on queued jobs, one at a time on each GPU, with the base model kept warm between them."""
    from likeness.workers import run_worker

    run_worker(role, settings_with(), gpus)


@app.command()
@plainly
def scheduler() -> None:
    """Re-publish waiting jobs, take back expired leases, send mails, expire what is due. Safe to run more than once."""
    from likeness.scheduler import run_scheduler

    run_scheduler(settings_with())


@app.command()
@plainly
def migrate() -> None:
    """Bring the database to the newest schema."""
    from storage.migrations import upgrade

    upgrade(settings_with().database)


@app.command()
@plainly
def prepare() -> None:
    """Make ready what the service needs, and only that: the newest schema, the bucket, leave for browsers to upload. Safe to repeat."""
    from likeness.prepare import run_prepare

    for line in run_prepare(settings_with()):
        out.print(line, soft_wrap=True)


@app.command()
@plainly
def doctor(
    send_to: Annotated[str, typer.Option(help="Also send a test message to this address.")] = "",
    strict: Annotated[bool, typer.Option(help="Warnings count as failures.")] = False,
) -> None:
    """Check every server, file and setting that the service needs: a line each, with what to do. Exit code 1 if something fails."""
    from likeness.doctor import run_doctor

    if not run_doctor(settings_with(), out, send_to, strict):
        raise typer.Exit(1)


@app.command()
@plainly
def healthcheck(
    part: Annotated[Literal["api", "scheduler", "train", "render", "both"], typer.Argument(help="Which part runs here.")],
) -> None:
    """For a container's health check: exit code 1 if this part gets nothing done."""
    from likeness import healthcheck as checks

    settings = settings_with()
    if part == "api":
        out.print(checks.check_api(settings))
    elif part == "scheduler":
        out.print(checks.check_scheduler(settings))
    else:
        out.print(checks.check_worker(settings, part))


@app.command()
@plainly
def train(
    photos: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of 10–20 photos of one subject.")],
    out: Annotated[Path, typer.Option(help="Folder for adapter.safetensors and card.json.")],
    kind: Annotated[str, typer.Option(help="person, cat, dog or other.")] = "cat",
    class_word: Annotated[str, typer.Option(help="The noun that prompts use; for a pet its breed. Default: the kind.")] = "",
    seed: int = 0,
    steps: Annotated[int, typer.Option(help="Optimizer steps; 0: by the recipe.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Pictures a step over all GPUs; 0: by the recipe.")] = 0,
) -> None:
    """Fit an adapter on a folder of photos, without a server. On several GPUs: accelerate launch -m likeness.cli train …"""
    from likeness.local import train_folder

    overrides = {name: value for name, value in {"steps": steps, "batch_size": batch_size}.items() if value}
    train_folder(settings_with(), photos, out, kind, class_word, seed, overrides)


@app.command()
@plainly
def render(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    adapter: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="adapter.safetensors with its card.json; none: base model.")
    ] = None,
    style: Annotated[str | None, typer.Option(help="A style of the catalogue.")] = None,
    prompt: Annotated[str | None, typer.Option(help="A free prompt; {subject} becomes trigger token and class word.")] = None,
    count: int = 1,
    seed: int = 0,
) -> None:
    """Render portraits with an adapter file, without a server."""
    from likeness.local import render_files

    render_files(settings_with(), out, adapter, style, prompt, count, seed)


@app.command()
@plainly
def export(
    adapter: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="adapter.safetensors")],
    file_format: Annotated[Literal["kohya", "comfyui"], typer.Option("--format", help="Whose layout to write.")],
    out: Annotated[Path | None, typer.Option(help="File to write; default: beside the adapter, with the format in its name.")] = None,
) -> None:
    """Write an adapter for other programs: kohya's trainers, ComfyUI. (diffusers reads ours as it is.)"""
    from diffusion.export import export_file

    print(export_file(adapter, out or adapter.with_suffix(f".{file_format}.safetensors"), file_format))


@evaluate_app.command("quick")
@plainly
def evaluate_quick(
    photos: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of photos of one subject.")],
    kind: Annotated[str, typer.Option(help="person, cat, dog or other.")] = "cat",
    seeds: Annotated[int, typer.Option(help="Training seeds to measure.")] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole report here.")] = None,
) -> None:
    """One subject: likeness with and without the adapter, against held-out photos; prompt fidelity; leakage."""
    from likeness.local import evaluate_folder

    evaluate_folder(settings_with(), photos, kind, seeds, json_file)


if __name__ == "__main__":
    main()

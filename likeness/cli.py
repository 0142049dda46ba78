"""The command line. Every command reads the settings once, here, and passes them down."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from core.errors import ServiceDown, UserError
from core.logs import set_up_logs
from core.settings import Settings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Self-hosted portraits: fit a LoRA on a subject's photos, render styled portraits."
)
evaluate_app = typer.Typer(no_args_is_help=True, help="Measure likeness, prompt fidelity and leakage.")
app.add_typer(evaluate_app, name="evaluate")
err = Console(stderr=True, highlight=False)

Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on.")]


def main() -> None:
    app()


def plainly(command: Callable[..., Any]) -> Callable[..., Any]:
    """A person's mistake or a dead server is one line on stderr and exit code 1, not a traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (UserError, ServiceDown) as error:
            err.print(f"[bold red]{error}[/]")
            raise typer.Exit(1) from error

    return wrapped


def settings_with(**overrides: Any) -> Settings:
    settings = Settings(**{k: v for k, v in overrides.items() if v is not None})
    set_up_logs(settings.log_level, settings.log_json)
    return settings


@app.command()
@plainly
def up(host: Host = None, port: Port = None) -> None:
    """Start the whole service on this machine: broker, API and pages, scheduler and workers."""
    from likeness.up import run_up

    run_up(settings_with(host=host, port=port))


@app.command()
@plainly
def api(host: Host = None, port: Port = None) -> None:
    """Serve the API and the pages."""
    import uvicorn

    from api.app import create_app

    settings = settings_with(host=host, port=port)
    uvicorn.run(
        create_app(settings), host=settings.host, port=settings.port, log_level=settings.log_level.lower(), timeout_graceful_shutdown=5
    )


@app.command()
@plainly
def worker(role: Annotated[Literal["train", "render"], typer.Argument(help="Which queue to work on.")]) -> None:
    """Work on queued jobs, one at a time, with the base model kept warm between them."""
    from likeness.workers import run_worker

    run_worker(role, settings_with())


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
def doctor() -> None:
    """Check every server and file that the service needs, one line each; exit code 1 if one is missing."""
    from likeness.doctor import run_doctor

    if not run_doctor(settings_with(), Console(highlight=False)):
        raise typer.Exit(1)


@app.command()
@plainly
def train(
    photos: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of 10–20 photos of one subject.")],
    out: Annotated[Path, typer.Option(help="Folder for adapter.safetensors and card.json.")],
    kind: Annotated[str, typer.Option(help="person, cat, dog or other.")] = "cat",
    class_word: Annotated[str, typer.Option(help="The noun that prompts use; for a pet its breed. Default: the kind.")] = "",
    seed: int = 0,
    steps: Annotated[int, typer.Option(help="Optimizer steps; 0: by the recipe.")] = 0,
) -> None:
    """Fit an adapter on a folder of photos, without a server."""
    from likeness.local import train_folder

    train_folder(settings_with(), photos, out, kind, class_word, seed, steps)


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

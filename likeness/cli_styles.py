"""``likeness styles``: the operator's own styles and style adapters, checked before they are offered."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from core.errors import UserError
from core.settings import Settings
from core.styles import ADAPTER_SUFFIX, Style, adapter_beside, catalogue, offered, read_style, style_folders
from likeness.plain import out, plainly, settings_with

app = typer.Typer(no_args_is_help=True, help="Add styles and style adapters, list them, take them back.")

File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A style's TOML file; its style adapter lies beside it.")]
Name = Annotated[str, typer.Argument(help="The style's name.")]


@app.command()
@plainly
def add(file: File) -> None:
    """Check a style, and the adapter that it names, and offer it from now on. One of the same name is replaced."""
    settings = settings_with()
    style = checked(settings, file)
    settings.styles.mkdir(parents=True, exist_ok=True)
    if style.style_adapter:  # first: a style never stands without its adapter
        _copy(adapter_beside(file.parent, style.style_adapter), settings.styles / f"{style.style_adapter}{ADAPTER_SUFFIX}")
    _copy(file, settings.styles / f"{style.name}.toml")
    out.print(f"{style.name} is offered now; workers read {settings.styles} (LIKENESS_STYLES_DIR): it must be the same for all.")


@app.command("list")
@plainly
def list_styles() -> None:
    """Every style with its mode, its adapter, and whether this service offers it."""
    settings = settings_with()
    can = offered(settings)
    table = Table("style", "title", "mode", "adapter", "offered", "from", box=None, pad_edge=False)
    for folder in style_folders(settings):
        for style in catalogue(folder).values():
            table.add_row(
                style.name, style.title, style.mode, style.style_adapter, "yes" if can.get(style.name) == style else "no", str(folder)
            )
    out.print(table)


@app.command()
@plainly
def remove(name: Name) -> None:
    """Take one of the operator's own styles back. Its adapter goes too, if no other style names it."""
    settings = settings_with()
    own = catalogue(settings.styles)
    if name not in own:
        raise UserError("style/not-own", f"{name} is none of your own styles", f"They lie in {settings.styles}; shipped ones stay.")
    (settings.styles / f"{name}.toml").unlink()
    adapter = own[name].style_adapter
    if adapter and all(other.style_adapter != adapter for other in catalogue(settings.styles).values()):
        adapter_beside(settings.styles, adapter).unlink(missing_ok=True)
    out.print(f"{name} is no longer offered. Portraits that wait for it fail with that reason.")


def checked(settings: Settings, file: Path) -> Style:
    """:class:`core.errors.UserError` with what is wrong with the file, or with its adapter for this base model."""
    from diffusion.blank import check_adapter

    try:
        style = read_style(file)
    except ValueError as error:
        raise UserError("style/invalid", "This style cannot be used", str(error)) from error
    if not style.suits(settings):
        detail = f"{settings.base_model} cannot render mode {style.mode}, or the style is for {', '.join(style.bases)} only."
        raise UserError("style/unsuited", "This service could not render this style", detail)
    if style.style_adapter:
        check_adapter(settings.base_model_path, adapter_beside(file.parent, style.style_adapter), settings.base_revision)
    return style


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all: workers may be reading."""
    part = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, part)
    part.replace(target)

"""Conventions of all commands: exit codes, error messages, standard output."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import click
from click.shell_completion import shell_complete

from onnxprune.app.cli.command_options import execution_options, reads_of, writes_of
from onnxprune.app.cli.pass_options import PassCommand
from onnxprune.app.cli.streams import prepare, put, tell
from onnxprune.errors import MissedError, OnnxpruneError, OutputError, UsageError, VerificationError
from onnxprune.support.wording import clean, sentence

if TYPE_CHECKING:
    from rich.console import RenderableType

Facts: TypeAlias = dict[str, Any]
Render: TypeAlias = "Callable[[Facts], RenderableType]"

_BACKTICKED = re.compile(r"`\w+`")
PROGRAM = "onnxprune"
_COMPLETE = "_ONNXPRUNE_COMPLETE"
"""The variable of the environment by which a shell asks for completions."""
_SENTENCE = 200  # characters; longer than any
VERBOSE = "onnxprune.verbose"
"""The key of ``--verbose`` in the meta data of a context."""
_DEVICES = ("device", "devices", "gpu", "gpus", "cuda", "use-cuda")
"""Options of other programs in place of ``--provider``."""
_PAGE_COLUMNS = 160  # of tables that go to a file or another program
_ENVIRONMENT = "is the disk full, or has a file or a folder been taken away meanwhile?"
_INTERRUPTED = 130  # the exit code that shells report for a program ended by Ctrl-C


class Program(click.Group):
    """A group of commands, listed in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, those of passes from other packages last."""
        from onnxprune.app.cli.plugin_passes import pass_names

        return list(dict.fromkeys((*self.commands, *pass_names())))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command of the program, or else the command of another package's pass of that name."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        from onnxprune.app.cli.plugin_passes import pass_command

        return pass_command(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with all of their first sentence, over several lines if need be."""
        with formatter.section("Commands"):
            found = {n: self.get_command(ctx, n) for n in self.list_commands(ctx)}
            formatter.write_dl([(n, c.get_short_help_str(_SENTENCE)) for n, c in found.items() if c])


def run_program(program: click.Group, args: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit with the code of the contract, after any error.

    Args:
        program: The commands.
        args: The words after the program's name; those it was started with by default.
    """
    prepare()
    if asked := os.environ.get(_COMPLETE):
        sys.exit(shell_complete(program, {}, PROGRAM, _COMPLETE, asked))
    sys.exit(_exit_code(lambda: program.main(args, standalone_mode=False)))


def command(
    name: str,
    render: Render,
    *,
    shows_progress: bool = True,
    executes: bool = False,
    fields_of: str | type | Sequence[type] = (),
) -> Callable[[Callable[..., Facts]], click.Command]:
    """Make a command of a function that returns facts.

    Args:
        name: Name that users type.
        render: Function from the facts to the shown table. ``--json`` prints the facts themselves.
        shows_progress: True to show its progress; a command that has a way of its own needs no other.
        executes: True if it runs models, on a provider of the user's choice.
        fields_of: A dataclass whose fields are options of the command (see `PassCommand`), or where it is
            defined, as ``module:name``; or several.
    """

    def decorate(function: Callable[..., Facts]) -> click.Command:
        @functools.wraps(function)
        def run(as_json: bool, memory: int | None, verbose: bool, quiet: bool, **options: Any) -> None:
            if verbose and quiet:
                raise UsageError("--verbose and --quiet contradict each other", "give one of them")
            click.get_current_context().meta[VERBOSE] = verbose
            level = int(verbose) - int(quiet)
            provider = [options.pop(name) for name in ("provider", "provider_options")] if executes else []
            try:
                _check_folder()
                with _in_flags(), _within(memory), _work(shows_progress, level), _executing(*provider):
                    _check_places(click.get_current_context())
                    facts = function(**options)
            except (MissedError, VerificationError) as error:
                if as_json:
                    put(_json(error.facts))
                raise
            put(_json(facts) if as_json else _for_people(render(clean(facts))))

        described = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(run)
        executing = _level_options(execution_options(described) if executes else described)
        complete = _memory_option(executing)
        if not fields_of:
            return click.command(name)(complete)
        return click.command(name, cls=PassCommand, fields_of=fields_of)(complete)

    return decorate


def _level_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--verbose`` and ``--quiet``."""
    quiet = click.option("-q", "--quiet", is_flag=True, help="Show no progress; warnings and errors remain.")
    verbose = click.option("-v", "--verbose", is_flag=True, help="Show every step with its seconds.")
    return verbose(quiet(function))


def is_verbose() -> bool:
    """Return whether ``--verbose`` is given to the command that runs."""
    return bool(click.get_current_context().meta.get(VERBOSE))


def _memory_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--memory",
        metavar="SIZE",
        callback=_amount,
        help="Memory that may be used, such as 2G; by default files may ask for 80 % of the machine's.",
    )(function)


def _amount(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    """Parse the value of ``--memory``; return bytes."""
    from onnxprune.support.memory import parsed

    return None if text is None else parsed(text)


@contextlib.contextmanager
def _within(memory: int | None) -> Iterator[None]:
    """Work with no more memory than is allowed."""
    from onnxprune.support.memory import confined

    with confined(memory):
        yield


@contextlib.contextmanager
def _executing(provider: str | None = None, options: Sequence[tuple[str, str]] = ()) -> Iterator[None]:
    """Run models on the provider that the user named."""
    if provider is None and not options:
        yield
        return
    from onnxprune.runtime.execution import ExecutionConfig, executing

    if provider is None:
        raise UsageError("options are those of an execution provider", "name it: --provider NAME")
    with executing(ExecutionConfig.of(provider, options)):
        yield


@contextlib.contextmanager
def _in_flags() -> Iterator[None]:
    """Name parameters in errors as the options of the command line are spelled."""
    options = [p for p in click.get_current_context().command.params if isinstance(p, click.Option)]
    flags = {f"`{option.name}`": max(option.opts, key=len) for option in options}
    try:
        yield
    except OnnxpruneError as error:
        error.message = _BACKTICKED.sub(lambda found: flags.get(found[0], found[0]), error.message)
        error.hint = _BACKTICKED.sub(lambda found: flags.get(found[0], found[0]), error.hint)
        raise


def _check_folder() -> None:
    """Refuse to work in a folder that has been deleted."""
    try:
        Path.cwd()
    except OSError as error:
        message = f"the current folder cannot be used: {error.strerror}"
        raise OutputError(message, "change into one that is there") from error


def _check_places(context: click.Context) -> None:
    """Refuse a command line that would overwrite a file it reads, or that reads a pipe or a device."""
    from onnxprune.support.path_guard import check_places, check_readable

    reads = reads_of(context)
    check_readable(reads)
    check_places(writes_of(context), reads)


@contextlib.contextmanager
def _work(shows_progress: bool, level: int) -> Iterator[None]:
    """Show progress if the command has none of its own, and keep standard output free for the result.

    Users' own data loaders and metrics may print, and so may libraries below Python; all of it goes to
    standard error.
    """
    from onnxprune.app.console import show_progress
    from onnxprune.ir.analyses import analysis_scope

    with contextlib.ExitStack() as stack:
        stack.enter_context(analysis_scope())
        with contextlib.suppress(OSError):  # a process may have been given no standard output at all
            saved = os.dup(1)
            stack.callback(os.close, saved)
            os.dup2(2, 1)
            stack.callback(os.dup2, saved, 1)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        if shows_progress:
            stack.enter_context(show_progress(level))
        yield


def _json(facts: Facts) -> str:
    return json.dumps(_plain(facts), indent=1, allow_nan=False) + "\n"


def _for_people(renderable: RenderableType) -> str:
    from rich.console import Console

    terminal, page = sys.stdout.isatty(), io.StringIO()
    width = None if terminal else _PAGE_COLUMNS
    console = Console(file=page, width=width, force_terminal=terminal, markup=False, emoji=False)
    console.print(renderable, highlight=False)
    return page.getvalue()


def _plain(value: Any) -> Any:
    """Return a value JSON can hold: numbers JSON has no word for (infinity, NaN) become ``null``."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _exit_code(run: Callable[[], Any]) -> int:
    """Run, print the error if there is one, and return the exit code."""
    try:
        outcome = run()
    except OnnxpruneError as error:
        _report(error.message, error.hint)
        return error.exit_code
    except click.ClickException as error:
        _report(error.format_message(), _usage_hint(error))
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _report("interrupted", "nothing was left half written")
        return _INTERRUPTED
    except MemoryError:
        hint = "give a smaller --batch-size, fewer --workers or a smaller model, or more --memory"
        _report("out of memory", hint)
        return 1
    except OSError as error:
        _report(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", _ENVIRONMENT)
        return 1
    except SystemExit as stop:
        _report(f"a module or a callable has ended the program: sys.exit({stop.code!r})", "let it return")
        return 1
    return outcome if isinstance(outcome, int) else 0


def _usage_hint(error: click.ClickException) -> str:
    if isinstance(error, click.NoSuchOption) and error.option_name.lstrip("-") in _DEVICES:
        return "devices are named by their execution provider, such as --provider cuda; see: onnxprune doctor"
    context = getattr(error, "ctx", None)
    return f"see: {context.command_path} --help" if context is not None else "add --help to see the options"


def _report(message: str, hint: str) -> None:
    tell("error: ", end="", color="red")
    tell(sentence(message))
    if hint:
        tell("hint: ", end="", color="cyan")
        tell(sentence(hint))

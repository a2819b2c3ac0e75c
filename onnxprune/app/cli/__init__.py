"""The command line: a contract.

Standard output carries the result and nothing else: a table, or with ``--json`` one JSON object. Progress,
warnings and errors go to standard error. Exit code 0: done. 1: the model, the data or the verification is at
fault, shown as ``error:`` and ``hint:``. 2: wrong usage. A traceback is a defect of this program.

conventions       exit codes, error messages, clean output: the base of all commands
streams           standard streams in any state
command_options   options that several commands share
pass_options      options that are made of the fields of a pass
plugin_passes     commands of passes from outside the package
figure, listing, live_status    forms of output
ana, bench, doctor, factorize, finetune, init, inspect, prune, recover, report, rotate, run, separate,
setup_training, shrink, sparsify, transform, verify    one command a file, named like it

Nothing heavy is imported before a command runs: ``--help`` is at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import click

from onnxprune import __version__
from onnxprune.app.cli.ana import ana
from onnxprune.app.cli.bench import bench
from onnxprune.app.cli.conventions import PROGRAM, Program, run_program
from onnxprune.app.cli.doctor import doctor
from onnxprune.app.cli.factorize import factorize
from onnxprune.app.cli.finetune import finetune
from onnxprune.app.cli.init import init
from onnxprune.app.cli.inspect import inspect
from onnxprune.app.cli.prune import prune
from onnxprune.app.cli.recover import recover
from onnxprune.app.cli.report import report
from onnxprune.app.cli.rotate import rotate
from onnxprune.app.cli.run import run
from onnxprune.app.cli.separate import separate
from onnxprune.app.cli.setup_training import setup_training
from onnxprune.app.cli.shrink import shrink
from onnxprune.app.cli.sparsify import sparsify
from onnxprune.app.cli.transform import transform
from onnxprune.app.cli.verify import verify


@click.group(
    cls=Program,
    subcommand_metavar="COMMAND [ARGS]...",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name=PROGRAM)
@click.pass_context
def program(context: click.Context) -> None:
    """Make trained ONNX models smaller and faster by removing whole channels.

    All in one: shrink. Step by step: ana, prune, finetune (the last two again with a higher
    reduction), transform.
    """
    if context.invoked_subcommand is None:
        raise click.UsageError(f"name a command: {', '.join(program.commands)}", context)


for command in (
    *(shrink, inspect, ana, rotate, separate, factorize, prune, recover, sparsify, finetune, transform),
    *(verify, bench, init, run, report, setup_training, doctor),
):
    program.add_command(command)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit.

    Args:
        args: The words after the program's name; those it was started with by default.
    """
    run_program(program, args)

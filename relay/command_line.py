"""click's commands with help and errors in the reader's language, and examples in every help."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import click

from relay.language import text


class _Localised(click.Command):
    """Help with headings of our catalogue.

    Args:
        examples: command lines, one each, shown below the description.
    """

    def __init__(self, *arguments: Any, examples: tuple[str, ...] = (), **options: Any) -> None:
        options.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        options.setdefault("options_metavar", text("options_metavar"))
        super().__init__(*arguments, **options)
        self.examples = examples

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """`--help` itself."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.help = text("help")
        return option

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The first line."""
        formatter.write_usage(
            ctx.command_path, " ".join(self.collect_usage_pieces(ctx)), prefix=text("usage")
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of options."""
        records = [
            record
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx))
        ]
        with formatter.section(text("options")):
            formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples."""
        del ctx
        if self.examples:
            formatter.write_paragraph()
            formatter.write_text(text("examples"))
            for example in self.examples:
                formatter.write_text(f"  {example}")


class LocalisedCommand(_Localised):
    """A command of a group."""


class LocalisedGroup(_Localised, click.Group):
    """A group of commands; alone it shows its help."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("subcommand_metavar", text("command_metavar"))
        super().__init__(*arguments, **options)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the words name."""
        if self.get_command(ctx, args[0]) is None:
            sentence = text("no_such_command", name=args[0])
            closest = get_close_matches(args[0], self.commands, n=1)
            if closest:
                sentence += " " + text("perhaps", name=closest[0])
            raise click.UsageError(sentence, ctx)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of options, then that of commands."""
        super().format_options(ctx, formatter)
        rows = [
            (name, command.get_short_help_str(formatter.width))
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) is not None
        ]
        with formatter.section(text("commands")):
            formatter.write_dl(rows)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were written."""
        del ctx
        return list(self.commands)


def require(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str:
    """The callback of an option that has to be there. click's own way says so in English alone.

    Raises:
        click.MissingParameter: it isn't.
    """
    if value is None:
        raise click.MissingParameter(ctx=ctx, param=parameter)
    return value


def describe_usage_error(error: click.UsageError) -> str:
    """What is wrong with a command line, as sentences."""
    if isinstance(error, click.NoSuchOption):
        sentences = [text("no_such_option", name=error.option_name)]
        closest = get_close_matches(error.option_name, error.possibilities or (), n=1)
        if closest:
            sentences.append(text("perhaps", name=closest[0]))
    elif isinstance(error, click.MissingParameter):
        sentences = [text("missing", name=_name_parameter(error.param))]
    elif isinstance(error, click.BadParameter):
        name = _name_parameter(error.param)
        sentences = [text("bad_value", name=name, message=error.message)]
    else:
        sentences = [error.format_message()]
    if error.ctx is not None:
        sentences.append(text("try_help", command=error.ctx.command_path))
    return " ".join(sentences)


def _name_parameter(parameter: click.Parameter | None) -> str:
    if parameter is None:
        return ""
    if isinstance(parameter, click.Option):
        return parameter.opts[0]
    return parameter.human_readable_name

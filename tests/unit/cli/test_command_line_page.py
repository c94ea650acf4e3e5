"""docs/command-line.md says what the commands say."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gkd_dist import errors
from gkd_dist.cli import main
from gkd_dist.cli.exit_codes import EXIT_CODES
from gkd_dist.cli.reference import pages

PAGE = Path(__file__).parents[3] / "docs" / "command-line.md"
COMMANDS = re.findall(r"^## `gkd ([a-z]+)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def kinds(error: type[BaseException]) -> Iterator[type[BaseException]]:
    yield error
    for kind in error.__subclasses__():
        yield from kinds(kind)


@pytest.mark.parametrize("name", ["command-line", "recipes"])
def test_the_pages_are_up_to_date(name: str) -> None:
    assert PAGE.with_stem(name).read_text(encoding="utf-8") == pages()[f"docs/{name}.md"], "run `make reference`"


def test_every_command_of_the_help_has_a_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2]
    assert re.findall(r"^  ([a-z]+) ", listed, re.MULTILINE) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_help_is_in_its_section(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    options = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)) - {"--help"}
    section = PAGE.read_text(encoding="utf-8").partition(f"## `gkd {command}`\n")[2].partition("\n## ")[0]
    assert [option for option in options if f"{option}" not in section] == []


def test_every_exit_code_of_an_error_is_listed() -> None:
    codes = {kind.exit_code for kind in kinds(errors.GkdError)} | {errors.StoppedEarlyError(15).exit_code}
    assert codes <= EXIT_CODES.keys()
    assert {2, 70, 75, 143} <= codes

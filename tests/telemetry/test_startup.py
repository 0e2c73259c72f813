import io
import logging

import pytest
from msgspec.structs import replace
from rich.console import Console

from assay.telemetry.startup import StartupDisplay
from assay.worker_protocol import Inputs, Loaded, Progress

LOADED = Loaded(
    model="judge",
    architecture="Judge",
    device="cpu",
    dtype="float32",
    forward="packed",
    attention="native",
    is_compiled=True,
    shares_prefixes=True,
    reads="last",
    outputs={"reward": 1},
    inputs=Inputs(100),
    parameters=12_300_000,
    budget_tokens=4096,
    prefix_blocks=64,
    tokens_per_s=12345.6,
    most_batch_tokens=65_536,
)
SUMMARY = (
    "packed (native, compiled) on cpu, float32, 12.3M parameters, batches of 4096 tokens, "
    "12,346 tokens/s"
)

ERASE_LINE = "\x1b[2K"  # begins each redraw of a terminal's bars


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def logged():
    """Return the lines of the start's log as they come."""
    logger, handler = logging.getLogger("assay.start"), Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def console(*, is_terminal):
    """Return a console that keeps its text."""
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=160, _environ={})


def test_a_log_gets_one_line_a_stage(logged):
    """Where nobody watches, each stage is a line, and so is its end."""
    screen = console(is_terminal=False)
    with StartupDisplay(screen) as display:
        display.show("cpu", Progress("judge", "load", 0.0))
        display.show("cpu", Progress("judge", "verify", 0.0))
        display.show("cpu", LOADED)
    assert logged == ["judge: load", "judge: verify", f"judge is ready: {SUMMARY}"]
    assert screen.file.getvalue() == ""


def test_a_quantized_model_is_said_to_be(logged):
    """Beside the dtype of what isn't rounded."""
    with StartupDisplay(console(is_terminal=False)) as display:
        display.show("cpu", replace(LOADED, quantized="int8"))
    assert ", float32 quantized to int8, 12.3M" in logged[0]


def test_a_terminal_gets_a_bar_a_model(logged):
    """A person sees each model with its last state, and the log stays silent."""
    screen = console(is_terminal=True)
    with StartupDisplay(screen) as display:
        display.show("cpu", Progress("critic", "warm up", 0.5))
        display.show("cpu", LOADED)
    shown = screen.file.getvalue()
    assert "critic" in shown
    assert "warm up" in shown
    assert "judge" in shown
    assert SUMMARY in shown
    assert logged == []


def test_each_device_has_a_bar_of_its_own(logged):
    """The same model on two devices is loaded twice, and shown twice."""
    screen = console(is_terminal=True)
    with StartupDisplay(screen) as display:
        for device in ("cuda:0", "cuda:1"):
            display.show(device, Progress("judge", "load", 0.0))
    last_frame = screen.file.getvalue().rpartition(ERASE_LINE)[2]
    assert last_frame.count("judge") == 2


def test_the_bars_stop_when_the_start_fails():
    """Leaving the block ends the display, and the error goes on."""
    screen = console(is_terminal=True)
    display = StartupDisplay(screen)
    with pytest.raises(LookupError), display:
        raise LookupError
    written = screen.file.getvalue()
    display.show("cpu", LOADED)
    assert screen.file.getvalue() == written


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_fallback_is_a_warning_at_the_start_whoever_watches(caplog, is_terminal):
    """One line for each reason, with the model's name, beside bars as well as in a log."""
    reasons = ("attention runs as eager, slower: no compiler", "it keeps no prefixes: too little")
    with StartupDisplay(console(is_terminal=is_terminal)) as display:
        display.show("cpu", replace(LOADED, warnings=reasons))
    warned = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert warned == [f"judge: {reason}" for reason in reasons]

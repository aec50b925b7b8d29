"""The first signal is a request, the second an order."""

import signal
import threading

import pytest

from pyro_stcn.interrupts import deferred_interrupts, sigterm_as_ctrl_c


@pytest.fixture
def called():
    """Names of the signals that reached the handlers from before; those of the test run are put back."""
    names = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(n, lambda number, frame: names.append(signal.Signals(number).name)) for n in numbers]
    yield names
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_the_first_of_each_kind_is_noted_and_the_second_goes_through(called):
    with deferred_interrupts() as received:
        for number, noted, passed in (
            (signal.SIGTERM, ["SIGTERM"], []),
            (signal.SIGINT, ["SIGTERM", "SIGINT"], []),
            (signal.SIGINT, ["SIGTERM", "SIGINT"], ["SIGINT"]),
            (signal.SIGTERM, ["SIGTERM", "SIGINT"], ["SIGINT", "SIGTERM"]),
        ):
            signal.raise_signal(number)
            assert (received, called) == (noted, passed)


def fail_after(signals):
    with deferred_interrupts():
        for number in signals:
            signal.raise_signal(number)
        raise ZeroDivisionError


@pytest.mark.parametrize("signals", [[], [signal.SIGINT]])
def test_the_handlers_from_before_come_back_also_after_an_error(called, signals):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ZeroDivisionError):
        fail_after(signals)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_outside_the_main_thread_nothing_changes(called):
    handler, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with deferred_interrupts() as received:
            seen.append((signal.getsignal(signal.SIGTERM), received))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(handler, [])]


def test_sigterm_can_be_made_to_act_as_ctrl_c():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def twice(number):
    with sigterm_as_ctrl_c(), deferred_interrupts() as received:
        signal.raise_signal(number)
        assert received == [signal.Signals(number).name]
        signal.raise_signal(number)


def test_inside_of_it_a_first_signal_is_deferred_and_a_second_acts():
    with pytest.raises(KeyboardInterrupt):
        twice(signal.SIGTERM)

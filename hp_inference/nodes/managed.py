# SPDX-License-Identifier: Apache-2.0
"""What the nodes share: parameters, lifecycle that starts itself, a clean end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
import faulthandler
import os
from pathlib import Path
import signal
import sys
import threading
import traceback
from typing import NoReturn

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn

from hp_inference.aside import Aside
from hp_inference.link.tcp import Tender
from hp_inference.nodes.guard import Guarded, Watchman
from hp_inference.nodes.log import hush, Log
from hp_inference.nodes.params import BadParameter, declare, Table
from hp_inference.runtime.memory import Trimmer
from hp_inference.text import line

#: How long a thread runs Python before another one gets its turn; Python's own is 5 ms. [s]
SWITCH_S = 1e-4
SUCCESS, FAILURE, ERROR = (TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE,
                           TransitionCallbackReturn.ERROR)

# How often it is looked whether memory can be given back. [s]
WATCH_S = 0.5
# A signal that should have interrupted something and has not is repeated after.
AGAIN_S = 0.5
# A process that was told to stop, or whose node is done, ends by force after this: own threads give
# up before, and to take the middleware down may take for ever (TCP after a blackout).
STOP_S, LEAVE_S = 10.0, 3.0
_STDERR = 2


class _Interrupts:
    """
    What SIGINT and SIGTERM do to the node that this process runs: they end its configuring.

    Anywhere else rclpy ends by itself what waits, as it hears of them first, and a
    KeyboardInterrupt would only hit whatever is just being done, such as cleaning up.
    """

    def __init__(self):
        self.told = False
        self._over = threading.Event()  # nothing is to be interrupted
        self._over.set()

    def __call__(self, *_signal: object) -> None:
        """Handle a signal."""
        first, self.told = not self.told, True
        if first:
            _end_within(STOP_S)
        if not self._over.is_set():
            if first:
                threading.Thread(target=self._insist, daemon=True).start()
            raise KeyboardInterrupt

    @contextmanager
    def armed(self):
        """Let a signal, also one that has come before, raise KeyboardInterrupt in the body."""
        self._over.clear()
        try:
            if self.told:
                raise KeyboardInterrupt
            yield
        finally:
            self._over.set()

    def _insist(self) -> None:
        """Repeat the signal until it has had its effect: some imports take the exception away."""
        while not self._over.wait(AGAIN_S):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)


_interrupts = _Interrupts()


def _end_within(seconds: float) -> None:
    """
    End this process by force, with status 1 and every thread's stack, if it is still there then.

    By a thread that needs no Python, as what hangs in the middleware keeps the interpreter.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)


def stopping() -> bool:
    """Tell whether this process has been told to stop: what fails from then on is no news."""
    return _interrupts.told or not rclpy.ok()


class ManagedNode(LifecycleNode):
    """
    A lifecycle node with a parameter table.

    A node implements ``configure`` and ``cleanup``; ``configure`` raises ValueError (all errors of
    the core are) to refuse, and the text is logged. It is active or not: ``self.active``. All
    callbacks run on one thread, so that none comes in the middle of a transition. ``aside`` does
    what no answer may depend on.
    """

    def __init__(self, name: str, table: Table):
        self.aside = Aside(self._say_aside)
        super().__init__(name)
        self.active = False
        self.params = declare(self, table)
        self.guarded: list[Guarded] = []
        self._watchman, self._trimmer = Watchman(), Trimmer()
        self._watch = self.create_timer(WATCH_S, self._look_after,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _look_after(self) -> None:
        for guard in list(self.guarded):
            guard.look()
        self._watchman.look(self.guarded)
        self._trimmer.look()

    def get_logger(self) -> Log:
        """Return the node's logger, which takes any text."""
        return Log(super().get_logger(), self.aside)

    def _say_aside(self, text: str) -> None:
        if not stopping():  # publishers and the logger go before those who use them
            self.get_logger().error(text)

    def configure(self) -> None:
        """Load what the node needs and make its publishers and subscriptions."""
        raise NotImplementedError  # every node has its own

    def announce(self) -> None:
        """Say what others need to know, as soon as the node is active."""

    def cleanup(self) -> None:
        """Undo ``configure``; called in any state, also after a failed one."""

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Configure; a refusal is logged in one line."""
        with _interrupts.armed():
            done = self._attempt(self.configure)
        if done:
            return SUCCESS
        self.cleanup()
        return FAILURE

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Let frames in."""
        self.active = True
        done = super().on_activate(state)
        return done if self._attempt(self.announce) else ERROR

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Let no more frames in."""
        self.active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Forget what was configured."""
        self.cleanup()
        return SUCCESS

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        """Stop for good."""
        self.active = False
        self.cleanup()
        return SUCCESS

    def on_error(self, state: State) -> TransitionCallbackReturn:
        """Return to the unconfigured state."""
        self.active = False
        self.cleanup()
        return SUCCESS

    def _attempt(self, step: Callable[[], None]) -> bool:
        """Run a step of a transition; log what it raises, which rclpy would keep to itself."""
        try:
            step()
            return True
        except ValueError as error:
            self.get_logger().error(f'cannot start: {error}')
        except Exception:
            if not stopping():
                self.get_logger().failed('cannot start')
        return False

    def spin(self) -> None:
        """Work until the node is told to stop; a callback that fails does not end it."""
        executor = SingleThreadedExecutor()
        executor.add_node(self)
        while rclpy.ok():
            try:
                executor.spin()
            except ExternalShutdownException:
                return
            except Exception as error:
                if stopping():
                    continue
                if self._is_own(error):
                    self.get_logger().failed('a callback failed')
                else:  # such as a transition that the state does not allow, a parameter of no type
                    self.get_logger().warning(
                        'a request or message that rclpy can not take: '
                        f'{type(error).__name__}: {line(error, 200)}', throttle_duration_sec=1.0)

    def _is_own(self, error: Exception) -> bool:
        """Tell whether an error passed code of this node, and not only rclpy's."""
        own = str(Path(__file__).parent.parent), sys.modules[type(self).__module__].__file__
        frames = traceback.extract_tb(error.__traceback__)[1:]  # without spin itself
        return any(frame.filename.startswith(own) for frame in frames)


def run(make: type[ManagedNode], args: list[str] | None = None) -> int:
    """
    Run a node until it is told to stop; return the process's exit status.

    0: it was told to stop. 1: it could not be configured. 2: wrong arguments or parameters.
    """
    _interrupts.told = False
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupts)
    node, status, tender = None, 0, Tender()
    # The thread that sends would wait 5 ms for its turn whenever another one runs Python.
    sys.setswitchinterval(SWITCH_S)
    try:
        try:
            rclpy.init(args=args)
            hush()
            node = make()
        except (BadParameter, RuntimeError) as error:  # the latter is how rclpy refuses arguments
            if _interrupts.told:
                return 0
            print(f'{make.__name__}: {error}', file=sys.stderr)
            return 2
        if node.params.autostart and not (node.trigger_configure() == SUCCESS
                                          and node.trigger_activate() == SUCCESS):
            status = 0 if stopping() else 1
        elif not _interrupts.told:  # rclpy does not know of what came before its time
            node.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if not stopping():
            raise
    finally:
        _end_within(STOP_S)
        for step in (node.cleanup, node.destroy_node) if node is not None else ():
            try:
                step()
            except Exception:
                if not stopping():
                    raise
            _end_within(LEAVE_S)  # all that is ours is done
        rclpy.try_shutdown()
        tender.close()
        faulthandler.cancel_dump_traceback_later()
        for number in (signal.SIGINT, signal.SIGTERM):  # also when it comes again from here on
            signal.signal(number, signal.SIG_IGN)
        _interrupts.told = False
    return status


def end(status: int) -> NoReturn:
    """
    End this process here and now, after ``run``.

    Python would first take PyTorch apart, which takes a second and on a busy machine several, and
    would abort if a thread were still in the middle of an operator, which nothing can interrupt.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

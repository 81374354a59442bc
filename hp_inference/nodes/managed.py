# SPDX-License-Identifier: Apache-2.0
"""What the nodes share: parameters, the model, lifecycle that starts itself, a clean end."""

from __future__ import annotations

from collections.abc import Callable
import os
import signal
import sys
import traceback

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn
import torch

from hp_inference import __version__
from hp_inference.graph.layout import Layout
from hp_inference.graph.load import ModelSpec, open_model
from hp_inference.nodes.params import BadParameter, declare, Table
from hp_inference.runtime.memory import keep_freed_memory

SUCCESS, FAILURE, ERROR = (TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE,
                           TransitionCallbackReturn.ERROR)


class ManagedNode(LifecycleNode):
    """
    A lifecycle node with a parameter table and a model.

    A node implements ``configure`` and ``cleanup``; ``configure`` raises ValueError (all errors of
    the core are) to refuse, and the text is logged. It is active or not: ``self.active``. All
    callbacks run on one thread, so that none comes in the middle of a transition.
    """

    def __init__(self, name: str, table: Table):
        super().__init__(name)
        self.active = False
        self.params = declare(self, table)

    def configure(self) -> None:
        """Load what the node needs and make its publishers and subscriptions."""
        raise NotImplementedError  # every node has its own

    def announce(self) -> None:
        """Say what others need to know, as soon as the node is active."""

    def cleanup(self) -> None:
        """Undo ``configure``; called in any state, also after a failed one."""

    def open_model(self) -> Layout:
        """Load and capture the model that the parameters name; raises ValueError."""
        p = self.params
        keep_freed_memory()
        if p.threads:
            torch.set_num_threads(p.threads)
        try:
            device = torch.device(p.device)
        except RuntimeError as error:
            raise ValueError(f"parameter 'device' is {p.device!r}: {error}") from error
        if device.type == 'cuda' and not torch.cuda.is_available():
            raise ValueError(f"parameter 'device' is {p.device!r}, but this torch "
                             f'({torch.__version__}) sees no CUDA device; use cpu, or install '
                             'a torch for this machine')
        spec = ModelSpec(p.model, tuple(p.input), p.weights, p.seed, tuple(p.mean), tuple(p.std))
        self.get_logger().info(f'capturing {p.model} for {list(p.input)} ...')
        layout = open_model(spec, p.device)[1]
        domain = os.environ.get('ROS_DOMAIN_ID', '0')
        self.get_logger().info(
            f'hp_inference {__version__}: {p.model}, digest {layout.graph.digest[:12]}, '
            f'{len(layout.graph.ops)} operators, on {p.device} with {torch.get_num_threads()} '
            f'threads, torch {torch.__version__}, {rclpy.get_rmw_implementation_identifier()}, '
            f'domain {domain}')
        if layout.unsupported:
            self.get_logger().warning(
                'operators without a row rule, computed whole on one side: '
                + ', '.join(f'{name} ({n})' for name, n in layout.unsupported.items()))
        return layout

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Configure; a refusal is logged in one line."""
        if self._attempt(self.configure):
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
        """Forget the model."""
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
            if rclpy.ok():  # else it was told to stop in the middle of it
                self.get_logger().error(f'cannot start:\n{traceback.format_exc()}')
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
            except Exception:
                # Anybody may ask for a transition that the state does not allow, and rclpy raises.
                if rclpy.ok():
                    self.get_logger().error(f'a callback failed:\n{traceback.format_exc()}')


def run(make: type[ManagedNode], args: list[str] | None = None) -> int:
    """
    Run a node until it is told to stop; return the process's exit status.

    0: it was told to stop. 1: it could not be configured. 2: wrong arguments or parameters.
    """
    # As Ctrl-C does, SIGTERM then interrupts the capture of a model, too; rclpy calls both.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    node = None
    try:
        try:
            rclpy.init(args=args)
            node = make()
        except (BadParameter, RuntimeError) as error:  # the latter is how rclpy refuses arguments
            print(f'{make.__name__}: {error}', file=sys.stderr)
            return 2
        if node.params.autostart and not (node.trigger_configure() == SUCCESS
                                          and node.trigger_activate() == SUCCESS):
            return 1 if rclpy.ok() else 0
        node.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if rclpy.ok():  # else it was told to stop in the middle of something
            raise
    finally:
        # Told once is enough: a terminal and ros2 launch may both pass a Ctrl-C on.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if node is not None:
            node.cleanup()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0

# SPDX-License-Identifier: Apache-2.0
"""What both nodes share: parameters, the model, lifecycle that starts itself, a clean end."""

from __future__ import annotations

import os
import sys

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn
import torch

from hp_inference import __version__
from hp_inference.graph.layout import Layout
from hp_inference.graph.load import ModelSpec, open_model
from hp_inference.nodes.params import BadParameter, declare, Table

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class ManagedNode(LifecycleNode):
    """
    A lifecycle node with a parameter table and a model.

    A node implements ``configure`` and ``cleanup``; ``configure`` raises ValueError (all errors of
    the core are) to refuse, and the text is logged. It is active or not: ``self.active``.
    """

    def __init__(self, name: str, table: Table):
        super().__init__(name)
        self.active = False
        self.params = declare(self, table)

    def configure(self) -> None:
        """Load what the node needs and make its publishers and subscriptions."""
        raise NotImplementedError  # every node has its own

    def cleanup(self) -> None:
        """Undo ``configure``; called in any state, also after a failed one."""

    def open_model(self) -> Layout:
        """Load and capture the model that the parameters name; raises ValueError."""
        p = self.params
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
        try:
            self.configure()
        except ValueError as error:
            self.get_logger().error(f'can not start: {error}')
            self.cleanup()
            return FAILURE
        return SUCCESS

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Let frames in."""
        self.active = True
        return super().on_activate(state)

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


def run(make: type[ManagedNode], args: list[str] | None = None) -> int:
    """Run a node until it is told to stop; return the process's exit status."""
    rclpy.init(args=args)
    node, status = None, 0
    try:
        node = make()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if node.params.autostart:
            if node.trigger_configure() != SUCCESS or node.trigger_activate() != SUCCESS:
                return 1
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except BadParameter as error:
        print(f'{error}', file=sys.stderr)
        status = 2
    except Exception:
        if rclpy.ok():
            raise
        # Told to stop while it started: rclpy's calls fail once the context is gone.
    finally:
        if node is not None:
            node.cleanup()
            node.destroy_node()
        rclpy.try_shutdown()
    return status

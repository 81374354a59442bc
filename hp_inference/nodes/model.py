# SPDX-License-Identifier: Apache-2.0
"""What the nodes with a model share."""

from __future__ import annotations

import gc
import os

import rclpy
import torch

from hp_inference import __version__
from hp_inference.graph.layout import Layout
from hp_inference.graph.load import ModelSpec, open_model
from hp_inference.nodes.managed import ManagedNode
from hp_inference.runtime.memory import keep_freed_memory


class ModelNode(ManagedNode):
    """A managed node whose parameters, those of MODEL among them, name a model."""

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
        gc.unfreeze()
        layout = open_model(spec, p.device)[1]
        # What capturing leaves are a million objects, and to look through them for garbage takes
        # half a second, in which no thread runs. From here on they are not looked at.
        gc.collect()
        gc.freeze()
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

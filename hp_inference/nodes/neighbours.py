# SPDX-License-Identifier: Apache-2.0
"""Who else is where a node should be alone: two robots, or two servers, in one namespace."""

from __future__ import annotations

from rclpy.node import Node

from hp_inference.text import line, NAME

# As many names are said; more help nobody.
MOST_NAMES = 5


def publishers(node: Node, topic: str) -> list[str]:
    """Return the full names of the nodes that publish a topic, one for each publisher, sorted."""
    return sorted(f'{line(info.node_namespace, NAME).rstrip("/")}/{line(info.node_name, NAME)}'
                  for info in node.get_publishers_info_by_topic(topic))


class Neighbours:
    """
    Watches a topic on which one node should publish and warns, by name, where others do.

    ``what``: what each of them is, such as 'server'; ``trouble``: what comes of it and what to do.
    """

    def __init__(self, node: Node, topic: str, what: str, trouble: str):
        self._node, self._what, self._trouble = node, what, trouble
        self.topic = topic
        self.count = 0
        self.text = ''  # what there is to say in diagnostics

    def look(self) -> None:
        """Look anew; a warning is logged when there are more of them than before."""
        count = self._node.count_publishers(self.topic)
        if count == self.count:
            return
        before, self.count, self.text = self.count, count, ''
        if count > 1:
            names = publishers(self._node, self.topic)
            named = ', '.join(names[:MOST_NAMES]) + (', ...' if len(names) > MOST_NAMES else '')
            self.text = f'{count} {self._what}s on {self.topic}: {named}'
            if count > before:
                self._node.get_logger().warning(f'{self.text}. {self._trouble}')

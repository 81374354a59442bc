# SPDX-License-Identifier: Apache-2.0
"""
Every quality-of-service profile of the nodes, by name.

A topic is made with these profiles, a line in the log when the other end does not match, and, on
data topics, overrides from the parameter file:

    node.create_subscription(Image, 'image', callback,
                             **qos.subscription(node, 'image', qos.IMAGES, overridable=True))
"""

from __future__ import annotations

from collections.abc import Callable
import copy

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks


def _profile(depth: int, reliability: ReliabilityPolicy,
             durability: DurabilityPolicy = DurabilityPolicy.VOLATILE) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability,
                      durability=durability)


#: Camera images: sensor data, the newest wins.
IMAGES = _profile(1, ReliabilityPolicy.BEST_EFFORT)

#: Rows between robot and server. A reliable writer that keeps its last N messages drops what is
#: older even if nobody has it yet, so N must exceed the chunks of all frames in flight. The largest
#: value of the usual models (vgg16 at 224 x 224: 12.8 MB) is 214 chunks of 60 kB; 1000 takes four
#: of these, and bounds what a vanished receiver can hold up to 60 MB.
CHUNKS = _profile(1000, ReliabilityPolicy.RELIABLE)

#: Answers: none is lost while the subscriber keeps up.
RESULTS = _profile(5, ReliabilityPolicy.RELIABLE)

#: Server to robot, one per frame; small, and the robot must not miss a refusal.
REPORTS = _profile(50, ReliabilityPolicy.RELIABLE)

#: Acknowledgements and probes: each stands for all before it, so a lost one need not come again.
ACKS = _profile(50, ReliabilityPolicy.BEST_EFFORT)

#: State rather than events: whoever comes late gets the latest.
LATCHED = _profile(1, ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)

#: For who listens to several publishers of LATCHED: the last N of all of them together are kept.
MEETINGS = _profile(50, ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)

#: Figures for plotting and recording.
METRICS = _profile(10, ReliabilityPolicy.RELIABLE)


def subscription(node: Node, topic: str, profile: QoSProfile, *, overridable: bool = False) -> dict:
    """Return the keyword arguments with which ``node`` subscribes to ``topic`` as ``profile``."""
    return _arguments(profile, overridable,
                      incompatible_qos_warning(node, topic, overridable=overridable)[1])


def publisher(node: Node, topic: str, profile: QoSProfile, *, overridable: bool = False) -> dict:
    """Return the keyword arguments with which ``node`` publishes ``topic`` as ``profile``."""
    return _arguments(profile, overridable,
                      incompatible_qos_warning(node, topic, overridable=overridable)[0])


def _arguments(profile: QoSProfile, overridable: bool,
               events: PublisherEventCallbacks | SubscriptionEventCallbacks) -> dict:
    return {
        # A copy, because rclpy writes the overrides into the profile that it is given.
        'qos_profile': copy.copy(profile),
        'qos_overriding_options':
            QoSOverridingOptions.with_default_policies() if overridable else None,
        'event_callbacks': events,
    }


def incompatible_qos_warning(
        node: Node, topic: str, *, overridable: bool = False,
) -> tuple[PublisherEventCallbacks, SubscriptionEventCallbacks]:
    """
    Return event callbacks for a publisher and for a subscription of ``node`` on ``topic``.

    They log one line when an end with an incompatible profile shows up: topic, policy, fix.
    ``overridable`` says that the topic takes overrides, which then are part of the fix.
    """
    def warn(side: str) -> Callable[[object], None]:
        name = node.resolve_topic_name(topic)

        def callback(event) -> None:
            node.get_logger().warning(_explain(side, name, event.last_policy_kind, overridable))
        return callback

    return (PublisherEventCallbacks(incompatible_qos=warn('publisher')),
            SubscriptionEventCallbacks(incompatible_qos=warn('subscription')))


#: What the weaker end offers and the stronger one asks for, where they do not connect.
_OFFER_REQUEST = {
    QoSPolicyKind.RELIABILITY: ('best_effort', 'reliable'),
    QoSPolicyKind.DURABILITY: ('volatile', 'transient_local'),
}


def _explain(side: str, topic: str, kind: int, overridable: bool) -> str:
    try:
        policy = QoSPolicyKind(int(kind))
        name = policy.name.lower()
    except ValueError:  # one that this rclpy has not heard of
        policy, name = None, 'quality of service'
    if side == 'subscription':
        problem = f"topic '{topic}': nothing is received from a publisher whose {name} "
    else:
        problem = f"topic '{topic}': nothing reaches a subscriber whose {name} "
    if policy not in _OFFER_REQUEST:
        return problem + f"does not match this node's. Fix: leave its {name} at the default"
    offer, request = _OFFER_REQUEST[policy]
    if side == 'subscription':
        theirs, ours = offer, request
    else:
        theirs, ours = request, offer
    text = problem + f"is '{theirs}', this node's is '{ours}'. Fix: set theirs to '{ours}'"
    if overridable and policy is QoSPolicyKind.RELIABILITY:
        text += f", or here the parameter 'qos_overrides.{topic}.{side}.{name}' to '{theirs}'"
    return text

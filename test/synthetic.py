# SPDX-License-Identifier: Apache-2.0
"""A plan table with a record, worked out from a handful of numbers; no model, no PyTorch."""

from __future__ import annotations

import json
import math

VALUES, ROWS = 12, 16
GRID = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
ROBOT_S, SERVER_S = 0.1, 0.01  # of the whole network
WAITING_W, TALKING_W, COMPUTING_W = 5.0, 6.0, 14.0
# Part on the robot, bytes up. The image has 150 kB, as JPEG 20 kB.
PLANS = {'robot_only': (1.0, 0), 'split_8': (0.6, 30e3), 'split_4': (0.3, 80e3),
         'full_offload': (0.0, 150e3), 'full_offload_jpeg': (0.0, 20e3)}
IN_TABLE = ('robot_only', 'split_8', 'split_4', 'full_offload')


def figures(name, rate):
    """Return a plan's figures at a rate in Mbit/s: one after the other, nothing overlaps."""
    part, up = PLANS[name]
    radio = up / (rate * 125e3)
    robot, server = part * ROBOT_S, (1 - part) * SERVER_S
    return {'latency_s': robot + radio + server, 'robot_busy_s': robot, 'server_busy_s': server,
            'energy_j': COMPUTING_W * robot + TALKING_W * radio + WAITING_W * server,
            'radio_busy_s': radio}


def curve(name, grid=GRID):
    at = [figures(name, rate) for rate in grid]
    return {**{key: [point[key] for point in at] for key in at[0]},
            'up_bytes': PLANS[name][1], 'down_bytes': 4000 if PLANS[name][1] else 0,
            'robot_peak_bytes': int(1e6 * PLANS[name][0] + 2e5), 'server_peak_bytes': 900_000}


def best(names, rate):
    return min(names, key=lambda name: figures(name, rate)['latency_s'])


def lanes(name, rate):
    shown, start = [], 0.0
    at = figures(name, rate)
    for lane, key in (('robot', 'robot_busy_s'), ('uplink', 'radio_busy_s'),
                      ('server', 'server_busy_s')):
        if at[key]:
            shown.append({'lane': lane, 'label': lane, 'start_s': start, 'duration_s': at[key]})
        start += at[key]
    return shown


def plan(name):
    share = math.floor(PLANS[name][0] * ROWS)
    rows = [ROWS] + [share] * (VALUES - 2) + [int(share > 0)]
    return {'name': name, 'robot': rows, 'server': rows, 'blocks': {}, 'codecs': {},
            'codec': 'zstd'}


def record(grid=GRID, **changes):
    """Return a record as JSON data; ``changes`` replaces keys, `...` leaves one out."""
    chosen = [best(IN_TABLE, rate) for rate in grid]
    switch = [best(('robot_only', 'full_offload'), rate) for rate in grid]
    data = {
        'objective': 'latency', 'latency_bound_ms': None, 'policy': 'exact', 'weights': None,
        'link': {'duplex': 'half', 'message_s': 0.001, 'byte_s': 0.0, 'round_trip_s': 0.002},
        'power': {'waiting_w': WAITING_W, 'communicating_w': TALKING_W,
                  'computing_w': COMPUTING_W},
        'robot': {'device': 'cpu'}, 'server': {'device': 'cuda:0'},
        'grid': list(grid), 'curves': {name: curve(name, grid) for name in PLANS},
        'baselines': {'robot_only': ['robot_only'] * len(grid),
                      'full_offload': ['full_offload'] * len(grid),
                      'full_offload_jpeg': ['full_offload_jpeg'] * len(grid),
                      'whole_switch': switch, 'layer_cut': switch, 'minimum_cut': switch},
        'others': [plan('full_offload_jpeg')],
        'choices': [{'mbit_s': rate, 'plan': name, **{key: figures(name, rate)[key] for key in
                                                      ('latency_s', 'energy_j')},
                     'bound_s': 0.8 * figures(name, rate)['latency_s'],
                     'lanes': lanes(name, rate)} for rate, name in zip(grid, chosen)],
        'depth': list(range(VALUES)),
        'pareto': {'mbit_s': 50.0, 'points': [
            {'plan': plan(name), 'throughput': 1 / max(figures(name, 50)['robot_busy_s'],
                                                       figures(name, 50)['radio_busy_s']),
             **{key: figures(name, 50)[key] for key in ('latency_s', 'energy_j')},
             'robot_peak_bytes': curve(name)['robot_peak_bytes']} for name in IN_TABLE]},
        'seconds': 1.5, 'version': '0.1.0', **changes}
    return {key: item for key, item in data.items() if item is not ...}


def table(grid=GRID, **changes):
    """Return a table with its record as JSON data; ``changes`` replaces keys, `...` drops one."""
    data = {
        'format': 1, 'model': 'net', 'model_digest': 'digest',
        'graph': {'values': [{'id': v, 'name': f'conv_{v}', 'shape': [1, 3, ROWS, 8],
                              'dtype': 'float32'} for v in range(VALUES - 1)]
                  + [{'id': VALUES - 1, 'name': 'linear', 'shape': [1, 10], 'dtype': 'float32'}],
                  'ops': [], 'outputs': {'output': VALUES - 1}},
        'axes': [2] * (VALUES - 1) + [None],
        'choices': [{'mbit_s': rate, 'plan': IN_TABLE.index(best(IN_TABLE, rate))}
                    for rate in grid],
        'plans': [plan(name) for name in IN_TABLE], 'record': record(grid), **changes}
    return {key: item for key, item in data.items() if item is not ...}


def write(path, data=None):
    """Write a table to a file, and return the path."""
    path.write_text(json.dumps(table() if data is None else data))
    return path

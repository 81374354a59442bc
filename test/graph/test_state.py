# SPDX-License-Identifier: Apache-2.0
"""A model that keeps something from image to image is refused by name, and is left as it was."""

import copy
import threading
import types

import numpy as np
import pytest
import torch
from torch import nn

from hp_inference.graph.capture import as_image_model, capture, CaptureError
from hp_inference.graph.load import ModelSpec, open_model
from hp_inference.graph.state import distance, Snapshot, twin

SHAPE = (1, 3, 10, 8)


class Keeps(nn.Module):
    """A convolution that adds half of what ``old`` gives, and hands its answer to ``keep``."""

    def __init__(self, **held):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x):
        old, y = self.old(), self.conv(x)
        y = y if old is None else y + 0.5 * old
        self.keep(torch.tanh(y))
        return torch.tanh(y)


class Assigned(Keeps):
    def __init__(self):
        super().__init__()
        self.register_buffer('memory', torch.zeros(1, 4, 10, 8))

    def old(self):
        return self.memory

    def keep(self, y):
        self.memory = y


class Copied(Assigned):
    def keep(self, y):
        self.memory.copy_(y)


class Attribute(Keeps):
    memory = None

    def old(self):
        return self.memory

    def keep(self, y):
        self.memory = y


class InList(Keeps):
    def __init__(self):
        super().__init__(memory=[])

    def old(self):
        return self.memory[-1] if self.memory else None

    def keep(self, y):
        self.memory.append(y)


class LastInList(InList):
    def keep(self, y):
        self.memory[:] = [y]


class InDict(InList):
    def __init__(self):
        Keeps.__init__(self, memory={})

    def old(self):
        return self.memory.get('y')

    def keep(self, y):
        self.memory['y'] = y


class InObject(InList):
    def __init__(self):
        Keeps.__init__(self, memory=types.SimpleNamespace(y=None))
        Box = type('Box', (), {})
        self.memory = Box()
        self.memory.inner = Box()
        self.memory.inner.y = None

    def old(self):
        return self.memory.inner.y

    def keep(self, y):
        self.memory.inner.y = y


class InArray(InList):
    def __init__(self):
        Keeps.__init__(self, memory=np.zeros(1))

    def old(self):
        return float(self.memory[0])

    def keep(self, y):
        self.memory += 1


class Counts(Keeps):
    calls = 0

    def old(self):
        return float(self.calls)

    def keep(self, y):
        self.calls += 1


class OfClass(Keeps):
    calls = 0

    def old(self):
        return float(OfClass.calls)

    def keep(self, y):
        OfClass.calls += 1


class InClosure(Keeps):
    def __init__(self):
        super().__init__()
        kept = []
        self.old = lambda: kept[-1] if kept else None
        self.keep = lambda y: kept.append(y)


class Toggles(Keeps):
    """What it keeps is the same after every second image."""

    on = False

    def old(self):
        return 1.0 if self.on else None

    def keep(self, y):
        self.on = not self.on


def nested(part):
    return nn.Sequential(nn.Identity(), nn.ModuleDict({'backbone': part}).backbone)


@pytest.mark.parametrize('make, place', [
    (Assigned, '1.memory'), (Copied, '1.memory'), (Attribute, '1.memory'), (InList, '1.memory'),
    (LastInList, r'1.memory\[0\]'), (InDict, r"1.memory\['y'\]"), (InObject, '1.memory.inner.y'),
    (InArray, '1.memory'), (Counts, '1.calls'), (OfClass, '1.calls'), (InClosure, '1.(old|keep)'),
    (Toggles, '1.on')], ids=lambda item: getattr(item, '__name__', None))
def test_what_changes_from_frame_to_frame_is_refused_by_name(make, place):
    module = nested(make()).eval()
    model = as_image_model(module, SHAPE)
    before = Snapshot.of(module)
    with pytest.raises(CaptureError, match=f'net changes attribute .{place}.* from frame to frame: '
                       'a model whose answer depends on earlier images can not be split') as error:
        capture(model, SHAPE, 'net')
    assert '\n' not in str(error.value)
    if make is not OfClass and make is not InClosure:  # what is not the module's own is not copied
        assert before.changed(Snapshot.of(module)) == ''


def test_open_model_refuses_it_as_the_nodes_do(tmp_path):
    (tmp_path / 'net.py').write_text(
        'import torch\n'
        'class Net(torch.nn.Conv2d):\n'
        '    memory = None\n'
        '    def forward(self, x):\n'
        '        y = super().forward(x)\n'
        '        y = y if self.memory is None else y + self.memory\n'
        '        self.memory = y\n'
        '        return y\n'
        'def make():\n    return Net(3, 2, 1)\n')
    with pytest.raises(CaptureError, match="changes attribute 'memory' from frame to frame"):
        open_model(ModelSpec(f'{tmp_path}/net.py:make', SHAPE))


OUTSIDE = []


class Outside(Keeps):
    """It keeps nothing itself: a module's variable does."""

    def old(self):
        return OUTSIDE[-1] if OUTSIDE else None

    def keep(self, y):
        OUTSIDE.append(y.clone())


def test_what_is_kept_outside_of_the_model_shows_in_its_answers():
    OUTSIDE.clear()
    with pytest.raises(CaptureError, match="output 'output' of net is (another one when the same "
                       'image comes again|not what was captured)'):
        capture(as_image_model(Outside().eval(), SHAPE), SHAPE, 'net')


class FirstImage(Keeps):
    """The first image is the background of all others."""

    background = None

    def old(self):
        return self.background

    def keep(self, y):
        if self.background is None:
            self.background = y


def test_an_answer_that_depends_on_the_first_image_is_refused():
    with pytest.raises(CaptureError, match="output 'output' of net is not what was captured: it "
                       'depends on something besides the image|another one when the same image'):
        capture(as_image_model(FirstImage().eval(), SHAPE), SHAPE, 'net')


class Anchors(nn.Module):
    """A grid that is made at the first call and kept under the shape, as detection heads have."""

    shape = None
    anchors = torch.empty(0)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)

    def forward(self, x):
        y = self.conv(x)
        if self.shape != y.shape:
            rows = torch.arange(y.shape[2]).type_as(y)
            columns = torch.arange(y.shape[3]).type_as(y)
            self.anchors = torch.stack(torch.meshgrid(rows, columns, indexing='ij'), -1).flatten(
                0, 1).T
            self.shape = y.shape
        return y.flatten(2)[:, :2] + self.anchors


@pytest.mark.parametrize('called', [False, True])
def test_what_is_made_at_the_first_call_is_a_constant_and_the_module_is_left_alone(called):
    module = Anchors().eval()
    model = as_image_model(module, SHAPE)
    image = torch.randint(0, 256, SHAPE, dtype=torch.uint8)
    if called:
        with torch.inference_mode():
            model(image)
    before = Snapshot.of(module)
    graph = capture(model, SHAPE, 'net')
    assert before.changed(Snapshot.of(module)) == ''
    assert not [op.target for op in graph.ops if 'meshgrid' in op.target or 'stack' in op.target]
    with torch.inference_mode():
        assert distance(graph_answer(graph, image), model(image)) <= 1e-5


def graph_answer(graph, image):
    from hp_inference.graph.state import run_whole
    return run_whole(graph, image)['output']


class Remakes(nn.Module):
    """It makes the same table anew at every call."""

    def forward(self, x):
        self.table = torch.arange(8.0)
        return x * self.table


def test_what_is_made_anew_and_is_the_same_is_no_state():
    capture(as_image_model(Remakes(), SHAPE), SHAPE, 'net')


class Locked(nn.Conv2d):
    """It holds what can't be copied."""

    def __init__(self):
        super().__init__(3, 4, 1)
        self.lock, self.history = threading.Lock(), self.weight * 2

    def forward(self, x):
        with self.lock:
            return super().forward(x)


def test_a_module_that_holds_what_can_not_be_copied_is_captured_all_the_same():
    module = nn.Sequential(Locked(), nn.ReLU()).eval()
    assert len(capture(as_image_model(module, SHAPE), SHAPE, 'net').ops) == 5


class Single(nn.Conv2d):
    def __deepcopy__(self, memo):
        raise TypeError('there is only one of me')


def test_a_module_that_refuses_to_be_copied_is_refused_in_one_line():
    module = nn.Sequential(Single(3, 4, 1)).eval()
    with pytest.raises(CaptureError, match='net can not be copied, which capturing needs so as to '
                       'leave it as it is: there is only one of me. Give'):
        capture(as_image_model(module, SHAPE), SHAPE, 'net')


def test_a_copy_shares_the_weights_and_nothing_that_is_written_to():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    made = twin(module)
    assert all(a is b for a, b in zip(made.parameters(), module.parameters(), strict=True))
    made[1].running_mean.add_(1)
    assert not module[1].running_mean.any()


@pytest.mark.parametrize('change', [
    lambda m: m.held.append(1), lambda m: m.held.__setitem__(0, 2.5),
    lambda m: setattr(m, 'new', None), lambda m: delattr(m, 'held'),
    lambda m: setattr(m, 'held', tuple(m.held)), lambda m: m.names.add('c'),
    lambda m: m.conv.weight.add_(1), lambda m: m.table.mul_(2), lambda m: m.array.fill(3),
    lambda m: setattr(m, 'table', m.table.double()), lambda m: m.loop['self'].update(x=1)])
def test_a_snapshot_tells_any_change(change):
    module = Keeps(held=[1, 2.0, {'a': float('nan')}], names={'a', 'b'}, table=torch.ones(3),
                   array=np.zeros(2), loop={})
    module.loop['self'] = module.loop  # a circle has an end
    before, same = Snapshot.of(module), Snapshot.of(module)
    assert before.changed(same) == '' and before.changed(Snapshot.of(copy.deepcopy(module))) == (
        'conv.weight')
    with torch.no_grad():
        change(module)
    assert before.changed(Snapshot.of(module)) != ''

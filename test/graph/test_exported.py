# SPDX-License-Identifier: Apache-2.0
"""A .pt2 file runs nothing: whatever lies in which member, it is refused by name or harmless."""

from collections import namedtuple
import io
import json
import os
from pathlib import Path
import pickle
import re
import zipfile

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import hp_inference
from hp_inference.graph import exported as exported_files
from hp_inference.graph.capture import as_image_model, capture
from hp_inference.graph.exported import ExportError, load_exported
from hp_inference.graph.models import load_model, ModelError

SHAPE = (1, 3, 8, 6)
WEIGHT, CONSTANT = 'data/weights/weight_0', 'data/constants/tensor_0'
CONFIG = {WEIGHT: 'data/weights/model_weights_config.json',
          CONSTANT: 'data/constants/model_constants_config.json'}
PROGRAM, INPUTS = 'models/model.json', 'data/sample_inputs/model.pt'


class Small(nn.Module):
    """A net with weights, a buffer, a constant, a part without gradients and an equation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.factor = torch.full((1, 4, 1, 1), 3.0)

    def forward(self, x):
        y = torch.einsum('bchw,bcxy->bhw', self.norm(self.conv(x)), self.factor)
        with torch.no_grad():
            z = nn.functional.interpolate(y[None], scale_factor=2.0)
        return {'big': z, 'pair': (y, y.relu())}


def exported(module, shape=SHAPE, **options):
    return torch.export.export(module.eval(), (torch.rand(shape),), **options)


def members(program) -> dict[str, bytes]:
    """Return what torch.export.save writes of a program, by the names within the archive."""
    made = io.BytesIO()
    torch.export.save(program, made)
    with zipfile.ZipFile(made) as archive:
        return {name.partition('/')[2]: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope='module')
def parts():
    return members(exported(Small()))


def written(path, parts, root='net', compression=zipfile.ZIP_STORED) -> str:
    with zipfile.ZipFile(path, 'w', compression) as archive:
        for name, data in parts.items():
            archive.writestr(f'{root}/{name}' if root else name, data)
    return str(path)


class Trap:
    """When a pickle of it is loaded, a folder is made."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def torch_saved(trap, **options):
    made = io.BytesIO()
    torch.save((trap, {}), made, **options)
    return made.getvalue()


def opened(path) -> str:
    """Load and capture a file; return '' or why it is refused."""
    try:
        module = load_model(path)
    except ModelError as error:
        assert '\n' not in str(error) and len(str(error)) < 700
        return str(error)
    capture(as_image_model(module, module.input_shape), module.input_shape, 'net')
    return ''


# What is whole loads

def answer(program, image):
    leaves = pytree.tree_leaves(program.module()(image))
    return [leaf.detach() for leaf in leaves]


def test_a_program_loads_and_answers_as_before(tmp_path, parts):
    image = torch.rand(SHAPE)
    wanted = answer(exported(Small()), image)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        program = load_exported(written(tmp_path / 'net.pt2', parts, compression=compression))
        assert all(torch.equal(a, b) for a, b in zip(answer(program, image), wanted, strict=True))
    assert opened(written(tmp_path / 'net.pt2', parts)) == ''


def test_a_program_for_images_of_many_sizes_loads(tmp_path):
    dims = {0: torch.export.Dim('n', min=1, max=9), 2: torch.export.Dim.AUTO,
            3: torch.export.Dim.AUTO}
    program = exported(Small(), (2, 3, 8, 6), dynamic_shapes={'x': dims})
    path = written(tmp_path / 'net.pt2', members(program))
    image = torch.rand(1, 3, 10, 12)
    for a, b in zip(answer(load_exported(path), image), answer(program, image), strict=True):
        assert torch.equal(a, b)


def test_a_program_that_an_older_torch_wrote_loads(tmp_path):
    from torch._export.serde.serialize import SCHEMA_VERSION, serialize
    program = exported(Small())
    told = serialize(program)
    older = {'version': '.'.join(map(str, SCHEMA_VERSION)).encode(),
             'serialized_exported_program.json': told.exported_program,
             'serialized_state_dict.pt': told.state_dict,
             'serialized_constants.pt': told.constants,
             'serialized_example_inputs.pt': told.example_inputs}
    image = torch.rand(SHAPE)
    path = written(tmp_path / 'net.pt2', older, root='')
    for a, b in zip(answer(load_exported(path), image), answer(program, image), strict=True):
        assert torch.equal(a, b)
    for name in older:
        made = tmp_path / 'made'
        for data in (pickle.dumps(Trap(made)), torch_saved(Trap(made))):
            said = opened(written(tmp_path / 'net.pt2', {**older, name: data}, root=''))
            assert not made.exists()
            assert said == '' or name in said or 'is not a program saved by' in said


def test_weights_and_constants_of_the_years_between_load(tmp_path, parts):
    program = exported(Small())
    older = {name: data for name, data in parts.items()
             if not name.startswith(('data/weights', 'data/constants'))}
    for name, tensors in (('weights', program.state_dict), ('constants', program.constants)):
        made = io.BytesIO()
        torch.save(dict(tensors), made)
        older[f'data/{name}/model.pt'] = made.getvalue()
    assert opened(written(tmp_path / 'net.pt2', older)) == ''
    for name in ('data/weights/model.pt', 'data/constants/model.pt'):
        trapped = {**older, name: torch_saved(Trap(tmp_path / 'made'))}
        assert f'its member {name}: it is pickled' in opened(
            written(tmp_path / 'net.pt2', trapped))
    assert not (tmp_path / 'made').exists()


# Pickles

@pytest.mark.parametrize('pickled', [
    pytest.param(pickle.dumps, id='plain'), pytest.param(torch_saved, id='torch.save'),
    pytest.param(lambda trap: torch_saved(trap, _use_new_zipfile_serialization=False),
                 id='torch.save of old', marks=pytest.mark.long)])
def test_a_payload_in_any_member_does_not_run(tmp_path, parts, pickled):
    made = tmp_path / 'made'
    outcomes = {}
    for name in parts:
        trapped = {**parts, name: pickled(Trap(made))}
        outcomes[name] = said = opened(written(tmp_path / 'net.pt2', trapped))
        assert not made.exists(), name
        assert said == '' or name in said or 'is not a program saved by' in said, name
    assert f'its member {INPUTS}: it is pickled and does not load as plain' in outcomes[INPUTS]
    assert f'its member {PROGRAM}: it is no JSON' in outcomes[PROGRAM]


@pytest.mark.parametrize('member', [WEIGHT, CONSTANT])
def test_a_payload_in_a_tensor_marked_as_pickled_does_not_run(tmp_path, parts, member):
    config = json.loads(parts[CONFIG[member]])
    entry = next(e for e in config['config'].values() if e['path_name'] == member[-8:])
    entry['use_pickle'] = True
    marked = {**parts, CONFIG[member]: json.dumps(config).encode()}
    for data in (pickle.dumps(Trap(tmp_path / 'made')), torch_saved(Trap(tmp_path / 'made'))):
        said = opened(written(tmp_path / 'net.pt2', {**marked, member: data}))
        assert f'its member {member}: it is pickled and does not load as plain tensors' in said
        assert not (tmp_path / 'made').exists()
    tensor = Small().conv.weight if member == WEIGHT else Small().factor
    whole = io.BytesIO()
    torch.save(tensor, whole)
    assert opened(written(tmp_path / 'net.pt2', {**marked, member: whole.getvalue()})) == ''


@pytest.mark.parametrize('own', ['opaque_obj_0', 'custom_obj_0', 'OPAQUE_OBJ_0', '../x'])
def test_an_object_among_the_constants_is_refused_by_name(tmp_path, parts, own):
    config = json.loads(parts[CONFIG[CONSTANT]])
    next(iter(config['config'].values())).update(path_name=own, use_pickle=True)
    trapped = {**parts, CONFIG[CONSTANT]: json.dumps(config).encode(),
               f'data/constants/{own}': pickle.dumps(Trap(tmp_path / 'made'))}
    said = opened(written(tmp_path / 'net.pt2', trapped))
    assert own in said and not (tmp_path / 'made').exists()


@pytest.mark.parametrize('member', [
    'data/aotinductor/model/lib.so', 'data/executorch/x', 'data/weights/other', 'models/b.json',
    'data/sample_inputs/b.pt', 'xl_model_weights/model_param_config', 'a\nb'])
def test_a_member_that_is_not_known_is_refused_by_name(tmp_path, parts, member):
    said = opened(written(tmp_path / 'net.pt2', {**parts, member: b''}))
    assert f'net/{member}'.replace('\n', '\\n') in said and 'is not known' in said


def test_a_member_that_is_there_twice_is_refused(tmp_path, parts):
    path = written(tmp_path / 'net.pt2', parts)
    with zipfile.ZipFile(path, 'a') as archive, pytest.warns(UserWarning, match='Duplicate'):
        archive.writestr(f'net/{INPUTS}', parts[INPUTS])
    assert 'is there twice' in opened(path)


# Python in names

def change(parts, edit) -> dict[str, bytes]:
    program = json.loads(parts[PROGRAM])
    edit(program, program['graph_module']['graph'])
    return {**parts, PROGRAM: json.dumps(program).encode()}


def renamed(item, old: str, new: str):
    """Return JSON data with another name in place of one."""
    if isinstance(item, dict):
        return {renamed(k, old, new): renamed(v, old, new) for k, v in item.items()}
    if isinstance(item, list):
        return [renamed(part, old, new) for part in item]
    return new if item == old else item


def codes(made):
    """Return edits of a program, each of which makes a folder where names are run as Python."""
    code = f"__import__('os').mkdir({str(made)!r})"

    def operator(program, graph):
        graph['nodes'].insert(0, {
            'target': 'torch.os.mkdir', 'metadata': {}, 'name': 'mkdir', 'outputs': [],
            'is_hop_single_tensor_return': None,
            'inputs': [{'name': '', 'arg': {'as_string': str(made)}, 'kind': 1}]})

    def library(program, graph):
        operator(program, graph)
        graph['nodes'][0]['target'] = 'torch.ops.load_library'

    def file(program, graph):
        operator(program, graph)
        graph['nodes'][0]['target'] = 'torch.ops.aten.from_file.default'

    def function(program, graph):
        graph['nodes'][0]['inputs'].append(
            {'name': 'f', 'arg': {'as_operator': 'torch.os.mkdir'}, 'kind': 2})

    def size(program, graph):
        value = next(v for v in graph['tensor_values'].values())
        value['sizes'][0] = {'as_expr': {'expr_str': code, 'hint': None}}

    def guard(program, graph):
        program['guards_code'] = [f'{code} is None']

    def key(program, graph):
        tree = program['graph_module']['module_call_graph'][0]['signature']
        version, spec = json.loads(tree['out_spec'])
        spec['context'] = json.dumps([
            {'__enum__': True, 'fqn': 'this:x', 'name': 'x'}, 'pair'])
        tree['out_spec'] = json.dumps([version, spec])

    def argument(program, graph):
        tree = program['graph_module']['module_call_graph'][0]['signature']
        tree['forward_arg_names'] = [f'x=({code})']

    def keyword(program, graph):
        tree = program['graph_module']['module_call_graph'][0]['signature']
        tree['in_spec'] = tree['in_spec'].replace('\\"[]\\"', f'"[\\"y=({code})\\"]"')
        version, spec = json.loads(tree['in_spec'])
        spec['children_spec'][1].update(context=json.dumps([f'y=({code})']), children_spec=[
            {'type': None, 'context': None, 'children_spec': []}])
        tree['in_spec'] = json.dumps([version, spec])

    def made_by(program, graph):
        tree = program['graph_module']['module_call_graph'][0]['signature']
        version, spec = json.loads(tree['out_spec'])
        spec.update(type='collections.defaultdict', context={
            'default_factory_module': 'os', 'default_factory_name': 'getcwd',
            'dict_context': ['big', 'pair']})
        tree['out_spec'] = json.dumps([version, spec])

    def text(program, graph):
        graph['inputs'].append({'as_string': f"' + ({code}) + '"})
    return [operator, library, file, function, size, guard, key, argument, keyword, made_by, text]


@pytest.mark.parametrize('number', range(11))
def test_python_in_the_text_of_a_program_does_not_run(tmp_path, parts, number):
    made = tmp_path / 'made'
    edit = codes(made)[number]
    said = opened(written(tmp_path / 'net.pt2', change(parts, edit)))
    assert not made.exists()
    if edit.__name__ == 'guard':  # guards are left out, the shapes are checked without
        assert said == ''
    else:
        assert f'is not opened, as it may run code: its member {PROGRAM}: ' in said


@pytest.mark.parametrize('old', ['x', 'conv2d', 'p_conv_weight', 'conv.weight', 'submod_1'])
def test_python_in_a_name_does_not_run(tmp_path, parts, old):
    made = tmp_path / 'made'
    for new in (f"__import__('os').mkdir({str(made)!r})", f'x"), os.mkdir("{made}"), ("',
                f'x\n    __import__("os").mkdir("{made}")'):
        program = renamed(json.loads(parts[PROGRAM]), old, new)
        said = opened(written(tmp_path / 'net.pt2',
                              {**parts, PROGRAM: json.dumps(program).encode()}))
        assert not made.exists()
        assert f'is not opened, as it may run code: its member {PROGRAM}: ' in said


@pytest.mark.parametrize('text', [
    '9**9**9**9', 'Pow(Integer(9), Integer(999999999))', 'lambdify(s0, 1)', 'x.y', 'preview(s0)',
    "Symbol('__import__')", '[1 for i in s0]', "sympify('1')", 's0 if s0 else 1', '(s0 := 3)',
    '1 +', '(' * 5000, "f'{s0}'", 'Symbol(**s0)'])
def test_what_is_no_size_is_refused(tmp_path, parts, text):
    def size(program, graph):
        graph['tensor_values']['conv2d']['sizes'][0] = {
            'as_expr': {'expr_str': text, 'hint': None}}
    assert 'the size of a tensor' in opened(written(tmp_path / 'net.pt2', change(parts, size)))


# Bombs

def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path, parts, monkeypatch):
    monkeypatch.setattr(exported_files, '_LEAST_ROOM', 1 << 20)
    path = written(tmp_path / 'net.pt2', {**parts, WEIGHT: bytes(9 << 20)},
                   compression=zipfile.ZIP_DEFLATED)
    assert 'it unpacks to ' in opened(path)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('inputs/data.pkl', bytes(9 << 20))
    path = written(tmp_path / 'net.pt2', {**parts, INPUTS: inner.getvalue()})
    assert f'its member {INPUTS}: it unpacks to more than' in opened(path)


def test_text_that_is_nested_without_end_is_refused(tmp_path, parts):
    deep = b'[' * 200_000
    assert f'its member {PROGRAM}: it is no JSON' in opened(
        written(tmp_path / 'net.pt2', {**parts, PROGRAM: deep}))


@pytest.mark.parametrize('place', ['/dev/zero', '/dev/null'])
def test_what_is_no_file_is_refused_at_once(tmp_path, place):
    link = tmp_path / 'net.pt2'
    link.symlink_to(place)
    with pytest.raises(ModelError):
        load_model(str(link))


def test_no_file_is_a_program_by_chance(tmp_path):
    for data in (b'', b'PK', b'{}', os.urandom(1000)):
        (tmp_path / 'net.pt2').write_bytes(data)
        with pytest.raises(ExportError, match='is not a program saved by torch.export.save'):
            load_exported(str(tmp_path / 'net.pt2'))


Pair = namedtuple('Pair', 'first second')


class GivesPair(Small):
    def forward(self, x):
        y = super().forward(x)
        return Pair(y['big'], y['pair'])


def test_a_named_tuple_may_be_returned(tmp_path):
    pytree._register_namedtuple(Pair, serialized_type_name='test_exported.Pair')
    assert opened(written(tmp_path / 'net.pt2', members(exported(GivesPair())))) == ''


def test_no_message_names_a_model():
    # What opens one is called in one place of the nodes, with parameters that are set at start.
    root = Path(hp_inference.__file__).parent
    sources = {str(path.relative_to(root.parent)): path.read_text() for folder in (
        root, root.parent / 'hp_planner') for path in folder.rglob('*.py')}
    opens = {name for name, text in sources.items()
             if re.search(r'\b(open_model|load_model|load_exported|ModelSpec)\(', text)}
    assert opens == {f'hp_inference/{name}.py' for name in (
        'graph/load', 'graph/models', 'graph/exported', 'nodes/model')} | {
        'hp_inference/nodes/robot_node.py', 'hp_inference/nodes/server_node.py',
        'hp_planner/planner_node.py'}
    for node in ('hp_inference/nodes/robot_node', 'hp_inference/nodes/server_node',
                 'hp_planner/planner_node'):
        assert re.findall(r'open_model\(.*', sources[f'{node}.py']) == ['open_model()']
    assert re.findall(r'ModelSpec\((.*)', sources['hp_inference/nodes/model.py']) == [
        'p.model, tuple(p.input), p.weights, p.seed, tuple(p.mean), tuple(p.std))']
    for name in ('model', 'weights'):
        assert re.search(rf"Row\('{name}', 'string', '[^']*', read_only=True",
                         sources['hp_inference/nodes/params.py'])

# SPDX-License-Identifier: Apache-2.0
"""
The text of an exported program, before torch.export reads it.

torch.export takes an operator by any name that begins with torch (torch.os.system is one), has
SymPy evaluate what stands for a size, imports what a tree of outputs names, and writes names and
guards into Python source that it runs. So only what programs consist of is let through.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
import json
import re

from hp_inference.text import line

_NAME = re.compile(r'[A-Za-z_]\w*|')
# Of modules, weights, devices, types, versions: never a quote, a bracket or a line end.
_PLAIN = re.compile(r'[\w.\-+:/@ ]*')
_STACK = re.compile(r'[\w.\-+:/@ ,;()\[\]]*')
_SYMBOL = re.compile(r'[a-z]{1,8}_?\d+')
_OPERATOR = re.compile(
    r'torch\.ops\.(aten|prims|torchvision|quantized_decomposed)\.\w+\.\w+'
    r'|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond|while_loop)'
    r'|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|lshift|rshift|and_|or_'
    r'|not_|eq|ne|lt|le|gt|ge)'
    r'|math\.(trunc|floor|ceil|sqrt|pow)|torch\._?sym_\w+')
# Of PyTorch's own these reach for files, or write to the terminal.
_NOT_THESE = re.compile(r'torch\.ops\.aten\.(from_file|save|warn|_print)\..*')
_FUNCTIONS = frozenset("""
    Symbol Integer Float Rational Add Mul Pow Mod Min Max Abs floor ceiling sqrt And Or Not Eq Ne
    Lt Le Gt Ge Equality Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan
    FloorDiv ModularIndexing Where PythonMod CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift
    PowByNatural FloatPow FloatTrueDiv IntTrueDiv IsNonOverlappingAndDenseIndicator TruncToFloat
    TruncToInt RoundToInt RoundDecimal ToFloat Identity
""".split())
_CONSTANTS = ('oo', 'int_oo', 'true', 'false', 'True', 'False')
_ARITHMETIC = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.operator,
               ast.unaryop, ast.cmpop, ast.boolop, ast.expr_context)
_LONGEST_EXPRESSION, _LARGEST_POWER = 10_000, 64


class UnsafeText(ValueError):
    """The text of a program holds what is no part of one; the error says what and where."""


def clean_program(data: bytes) -> bytes:
    """
    Return the JSON of a program, checked and written anew, without guards and remarks.

    What is returned is what was checked, whatever a second parser makes of the original. Raises
    UnsafeText.
    """
    return json.dumps(_cleaned(_parsed(data), '')).encode()


def clean_config(data: bytes) -> tuple[bytes, set[str]]:
    """
    Return the JSON that says which tensor lies in which file, checked, and which are pickled.

    Raises UnsafeText.
    """
    config = _cleaned(_parsed(data), '')
    entries = config.get('config') if isinstance(config, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise UnsafeText("expected an object 'config' with an object for each tensor")
    pickled = {str(entry.get('path_name')) for entry in entries.values()
               if entry.get('use_pickle') is not False}
    return json.dumps(config).encode(), pickled


def _parsed(data: bytes):
    try:
        return json.loads(data.decode('utf-8'))
    except (ValueError, RecursionError) as error:
        raise UnsafeText(f'it is no JSON: {line(error, 200)}') from error


def _cleaned(item, key: str):
    """Return JSON data checked, below the name ``key`` of an object."""
    if isinstance(item, dict):
        if 'nodes' in item:
            _check_inputs(item.get('inputs'))
        return {_text(name, 'a name', _PLAIN): _entry(name, part) for name, part in item.items()}
    if isinstance(item, list):
        return [_cleaned(part, key) for part in item]
    if isinstance(item, str):
        return _CHECKS.get(key, _plain)(item)
    return item


def _entry(name: str, part):
    if name == 'guards_code':
        return []
    if name == 'metadata':
        stack = part.get('nn_module_stack') if isinstance(part, dict) else None
        return {} if stack is None else {
            'nn_module_stack': _text(stack, 'the names of modules', _STACK)}
    if name in ('as_custom_obj', 'custom_obj_values') and part:
        raise UnsafeText('it holds objects of a class of its own')
    if name.endswith('_values') and isinstance(part, dict):
        for own in part:
            _text(own, 'the name of a value', _NAME)
    return _cleaned(part, name)


def _check_inputs(inputs) -> None:
    """Let a graph take tensors and numbers alone: a text would be written into source."""
    for given in inputs if isinstance(inputs, list) else [None]:
        if not isinstance(given, dict) or not set(given) <= {
                'as_tensor', 'as_sym_int', 'as_sym_float', 'as_sym_bool', 'as_none', 'as_int',
                'as_float', 'as_bool'}:
            raise UnsafeText(f'it takes {line(given, 80)}, expected tensors')


def _text(text, what: str, pattern: re.Pattern) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise UnsafeText(f'{line(repr(text), 120)} is not {what}')
    return text


def _plain(text: str) -> str:
    return _text(text, 'a name', _PLAIN)


def _name(text: str) -> str:
    return _text(text, 'the name of a value', _NAME)


def _operator(text: str) -> str:
    if not _OPERATOR.fullmatch(text) or _NOT_THESE.fullmatch(text):
        raise UnsafeText(f'{line(repr(text), 120)} is not an operator that is opened from a file: '
                         'a model with others is given as path/file.py:factory')
    return text


def _in_spec(text: str) -> str:
    return _tree(text, lambda name: _text(name, 'the name of an input', _NAME))


def _out_spec(text: str) -> str:
    return _tree(text, str)


def _tree(text: str, check_key: Callable[[str], str]) -> str:
    """Return how inputs or outputs are nested, checked: it may name nothing to import."""
    try:
        version, spec = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise UnsafeText(f'{line(repr(text), 120)} is not the order of inputs or '
                         'outputs') from error
    return json.dumps([version if isinstance(version, int) else None, _branch(spec, check_key)])


def _branch(spec, check_key: Callable[[str], str]) -> dict:
    if not isinstance(spec, dict) or not isinstance(spec.get('children_spec'), list):
        raise UnsafeText(f'{line(repr(spec), 120)} is not the order of inputs or outputs')
    kind, context = spec.get('type'), spec.get('context')
    if kind is not None:
        _plain(kind)
    if context is not None:
        try:
            decoded = json.loads(context)
        except (TypeError, ValueError, RecursionError):
            _text(context, 'the name of a type', _PLAIN)
        else:
            for key in decoded if isinstance(decoded, list) else [decoded]:
                if isinstance(key, str):
                    check_key(key)
                elif key is not None and not isinstance(key, (int, float)):
                    raise UnsafeText(f'{line(repr(key), 120)} is not a key of outputs')
            context = json.dumps(decoded)
    return {'type': kind, 'context': context,
            'children_spec': [_branch(child, check_key) for child in spec['children_spec']]}


def _expression(text: str) -> str:
    """Let through arithmetic on named sizes, which SymPy will evaluate as Python."""
    if len(text) > _LONGEST_EXPRESSION:
        raise UnsafeText(f'{line(repr(text), 120)} is too long for the size of a tensor')
    try:
        for node in ast.walk(ast.parse(text.strip(), mode='eval')):
            _check_part(node)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnsafeText(f'{line(repr(text), 120)} is not the size of a tensor') from error
    return text


def _check_part(node: ast.AST) -> None:
    if isinstance(node, ast.Call):
        fits = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        if fits and 'Pow' in node.func.id:
            fits = len(node.args) == 2 and _small(node.args[1])
    elif isinstance(node, ast.Name):
        fits = (node.id in _FUNCTIONS or node.id in _CONSTANTS
                or _SYMBOL.fullmatch(node.id) is not None)
    elif isinstance(node, ast.Constant):
        fits = (_SYMBOL.fullmatch(node.value) is not None if isinstance(node.value, str)
                else isinstance(node.value, (bool, int, float)))
    elif isinstance(node, ast.keyword):
        fits = isinstance(node.value, ast.Constant) and node.arg is not None
    else:
        fits = isinstance(node, _ARITHMETIC)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            fits = _small(node.right)
    if not fits:
        raise ValueError('no arithmetic')


def _small(node: ast.AST) -> bool:
    """Tell whether an exponent is one that a shape has: a power can fill the memory."""
    if isinstance(node, ast.Call) and node.args:
        node = node.args[0]
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    return isinstance(node, ast.Constant) and not isinstance(node.value, str) and \
        abs(node.value) <= _LARGEST_POWER


_CHECKS: dict[str, Callable[[str], str]] = {
    'name': _name, 'as_name': _name, 'forward_arg_names': _name, 'field_names': _name,
    'target': _operator, 'as_operator': _operator, 'expr_str': _expression,
    'in_spec': _in_spec, 'out_spec': _out_spec,
    'as_string': str,  # an argument of an operator, always written down as a literal
}

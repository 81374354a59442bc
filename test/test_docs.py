# SPDX-License-Identifier: Apache-2.0
"""What the README and the docs say is in the code: links, files, commands, messages, topics."""

import ast
from importlib import import_module
import re
import shlex
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from test_packaging import console_scripts, ROOT

from hp_cli.main import _parser

DOCS = ROOT / 'docs'
README, INTERFACES, MEASURED = ROOT / 'README.md', DOCS / 'interfaces.md', DOCS / 'measured.md'
PAGES = sorted([*ROOT.glob('*.md'), *DOCS.glob('*.md')])
README_LINES = 160
# A file or folder of ours as the docs name it, and where it may begin.
FOLDERS = 'bench|config|docs|examples|hp_cli|hp_inference|hp_msgs|hp_planner|launch|test'
A_FILE = re.compile(rf'(?:{FOLDERS})/[\w./-]*|(?!path/)[\w-]+/[\w./-]*\.py')
ROOTS = (ROOT, ROOT / 'hp_inference', ROOT / 'hp_inference' / 'graph')
NODES = {'robot': 'robot_node', 'server': 'server_node', 'monitor': 'bandwidth_monitor_node',
         'planner': 'planner_node'}
# What every managed node has besides.
USUAL_TOPICS = {'/parameter_events', '/rosout', '~/transition_event'}
# Whose topic and profile do not stand beside each other in the code.
APART = {'meeting': ('Meeting', 'LATCHED'), '/diagnostics': ('DiagnosticArray', '10, reliable')}

page = pytest.mark.parametrize('page', PAGES, ids=lambda path: path.name)


def prose(path):
    """Return a page without its blocks of code."""
    return re.sub(r'^ *```.*?^ *```', '', path.read_text('utf-8'), flags=re.DOTALL | re.MULTILINE)


def blocks(path, language=''):
    """Return the blocks of code of a language, without what indents them."""
    found = re.findall(rf'^( *)```{language}\n(.*?)^ *```', path.read_text('utf-8'),
                       flags=re.DOTALL | re.MULTILINE)
    return [re.sub(f'^{indent}', '', text, flags=re.MULTILINE) for indent, text in found]


def commands(path):
    """Return the command lines in the blocks of a page, without comments and as words."""
    lines = '\n'.join(blocks(path)).replace('\\\n', ' ').splitlines()
    return [words for line in lines if line.isascii() and (words := _words(line))]


def _words(line):
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # no command line, but a drawing or a table
        return []


def anchors(path):
    """Return what a link into a page may name, as GitHub makes it of the headings."""
    heads = re.findall(r'^#+ (.+)$', prose(path), flags=re.MULTILINE)
    return {re.sub(r'[^\w -]', '', head.lower()).replace(' ', '-') for head in heads}


def rows(path, first):
    """Return the rows, as lists of cells, of the table of a page that begins with a cell."""
    lines = prose(path).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(f'| {first} |'))
    found = []
    for line in lines[at + 2:]:
        if not line.startswith('|'):
            break
        found.append([cell.strip() for cell in line.strip('|').split('|')])
    return found


def source(path):
    return ast.parse(path.read_text('utf-8'))


@page
def test_every_link_leads_somewhere(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', prose(page)):
        name, _, anchor = unquote(target).partition('#')
        assert ':' not in name, f'{target}: a link out of the project can break unseen'
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@page
def test_every_file_that_is_named_exists(page):
    for name in filter(A_FILE.fullmatch, re.findall(r'`([^`\s]+)`', prose(page))):
        assert any((root / name).exists() for root in ROOTS), name


def test_every_page_is_within_reach_of_the_readme():
    linked = {(README.parent / target.partition('#')[0]).resolve()
              for target in re.findall(r'\]\(([^)\s]+)\)', prose(README))}
    assert set(PAGES) - {README} <= linked


def test_the_readme_is_short():
    assert len(README.read_text('utf-8').splitlines()) <= README_LINES


def test_the_figures_of_the_readme_are_those_of_the_page():
    """A row of the README per table of the page; T = S is the row whose second cell is 1."""
    text = MEASURED.read_text('utf-8')
    heads = re.search(r'\| model \| (.+) \|', README.read_text('utf-8'))[1].split(' | ')
    assert heads.index('T = S')
    for name, *cells in rows(README, 'model'):
        table = re.search(rf'^\*\*{re.escape(name)}\*\*.*?\n\n(.*?)\n\n', text,
                          re.DOTALL | re.MULTILINE)[1].splitlines()[2:]
        measured = {}
        for line in table:
            rate, share, policy, *rest = (cell.strip() for cell in line.strip('|').split('|'))
            ratio = re.search(r'([\d.]+) \[', rest[-2])[1]
            at_balance = abs(float(share) - 1) < 0.02
            measured['T = S' if at_balance else rate, policy] = ratio
        for head, cell in zip(heads, cells):
            wanted = [measured.get((head, policy)) for policy in ('exact', 'lossy')]
            assert cell == (f'{wanted[0]} ({wanted[1]})' if any(wanted) else ''), (name, head)


@page
def test_every_hp_command_is_understood(page):
    for words in commands(page):
        if words[0] == 'hp':
            _parser().parse_args(words[1:])


@page
def test_what_is_made_and_started_is_there(page):
    targets = re.search(r'\.PHONY: (.+)', (ROOT / 'Makefile').read_text('utf-8'))[1].split()
    scripts = {script.split()[0] for script in console_scripts()}
    text = page.read_text('utf-8')
    assert set(re.findall(r'(?:`|^)make ([\w-]+)', text, re.MULTILINE)) <= {*targets, 'alone'}
    assert set(re.findall(r'ros2 run hp_inference (\w+)', text)) <= scripts
    for words in commands(page):
        if words[0].endswith('_node'):
            assert words[0] in scripts
        for option, value in zip(words, words[1:]):
            if option == '--params-file' and '/' in value:
                assert (ROOT / value).is_file()
        if words[:2] == ['ros2', 'launch']:
            launch = ROOT / 'launch' / words[3]
            names = {node.value for node in ast.walk(source(launch))
                     if isinstance(node, ast.Constant)}
            assert {word.partition(':=')[0] for word in words[4:]} <= names


def test_the_code_in_the_readme_uses_what_the_messages_have():
    """test_docs_of_nodes.py runs it."""
    (code,) = blocks(README, 'python')
    assert len([line for line in code.splitlines() if line]) == 10
    fields = {}
    for message in ('InferenceResult', 'NamedTensor'):
        text = (ROOT / 'hp_msgs' / 'msg' / f'{message}.msg').read_text('utf-8')
        fields[message] = set(re.findall(r'^[\w/\[\]<=]+ +(\w+)', text, re.MULTILINE))
    used = {'msg': set(), 'output': set()}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and getattr(node.value, 'id', '') in used:
            used[node.value.id].add(node.attr)
    assert used['msg'] and used['msg'] <= fields['InferenceResult']
    assert used['output'] and used['output'] <= fields['NamedTensor']


def test_the_code_in_contributing_is_the_project_s():
    lines = {line.strip() for folder in ('hp_inference', 'test')
             for path in (ROOT / folder).rglob('*.py')
             for line in path.read_text('utf-8').splitlines()}
    shown = '\n'.join(blocks(ROOT / 'CONTRIBUTING.md', 'python')).splitlines()
    assert shown
    assert [line for line in shown if line.strip() not in lines] == []


def test_the_layout_names_every_folder_of_code():
    named = {re.match(r'`([\w/.]+)`', row[0])[1].rstrip('/')
             for row in rows(ROOT / 'CONTRIBUTING.md', 'folder')}
    packages = {str(path.parent.relative_to(ROOT)) for name in ('hp_inference', 'hp_planner')
                for path in (ROOT / name).glob('*/__init__.py')}
    assert packages - {'hp_inference/graph/rules'} <= named


def test_what_troubleshooting_quotes_is_what_is_said():
    """Of quotes in the first column with a space: the parts between dots are in some string."""
    said = set()
    for folder in ('hp_inference', 'hp_planner', 'hp_cli'):
        for path in (ROOT / folder).rglob('*.py'):
            for node in ast.walk(source(path)):
                if isinstance(node, ast.JoinedStr):
                    said.add('\0'.join(part.value for part in node.values
                                       if isinstance(part, ast.Constant)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    said.add(node.value)
    for line in prose(DOCS / 'troubleshooting.md').splitlines():
        cell = line.split('|')[1] if line.startswith('| ') else ''
        for quote in filter(re.compile(' ').search, re.findall('`([^`]*)`', cell)):
            for part in filter(None, map(str.strip, quote.split('...'))):
                assert any(part in text for text in said), part


def test_the_messages_are_described_as_they_are(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    generate = import_module('generate')
    text = INTERFACES.read_text('utf-8')
    assert generate.interfaces(text) == text, 'make docs writes it anew'
    assert '### InferenceResult' in text and '| `latency_s` | float64 |' in text


def policy(node):
    """Return what a node does by its policy for SROS2: {'publish': topics, ...}, relative names."""
    found = {'publish': set(), 'subscribe': set(), 'reply': set()}
    root = ElementTree.parse(ROOT / 'config' / 'sros2' / f'{node}.policy.xml')
    for rule in root.find('.//profile'):
        for what in set(rule.attrib) & set(found):
            found[what] |= {each.text.removeprefix('/robot1/') for each in rule}
    return found


@pytest.mark.parametrize('short', NODES)
def test_the_topics_and_services_are_those_that_a_node_has(short):
    """The policies name them; another test compares these with the running nodes."""
    node = NODES[short]
    allowed, table = policy(node), rows(INTERFACES, 'topic')
    for column, what in ((2, 'publish'), (3, 'subscribe')):
        listed = {row[0].strip('`') for row in table if short in row[column].split(', ')}
        has = {re.sub('^~', node, topic) for topic in allowed[what] - USUAL_TOPICS}
        assert listed == has
    usual = policy('bandwidth_monitor_node')['reply']  # it has no services of its own
    listed = {row[0].strip('`') for row in rows(INTERFACES, 'service') if row[2] == short}
    assert listed == {re.sub('^~', node, service) for service in allowed['reply'] - usual}


def test_types_and_profiles_of_topics_are_those_of_the_code():
    """Wherever nodes name a type, a topic and a profile, one behind the other."""
    found = dict(APART)
    for path in (*(ROOT / 'hp_inference' / 'nodes').glob('*.py'),
                 ROOT / 'hp_planner' / 'planner_node.py'):
        for node in ast.walk(source(path)):
            parts = node.args if isinstance(node, ast.Call) else getattr(node, 'elts', ())
            kinds = {part.id for part in parts if isinstance(part, ast.Name)} - {'self', 'node'}
            topics = [part.value for part in parts
                      if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            named = [keyword.value for keyword in getattr(node, 'keywords', ())]
            profiles = {each.attr for part in [*parts, *named] for each in ast.walk(part)
                        if isinstance(each, ast.Attribute) and each.attr.isupper()
                        and getattr(each.value, 'id', '') == 'qos'}
            if len(kinds) == len(topics) == len(profiles) == 1:
                (kind,), (topic,), (profile,) = kinds, topics, profiles
                topic = re.sub('^~', 'robot_node', topic)
                made = kind.removesuffix('Msg'), profile
                assert found.setdefault(topic, made) == made, topic
    assert found == {row[0].strip('`'): (row[1].partition('/')[2], row[4])
                     for row in rows(INTERFACES, 'topic')}


def test_profiles_are_those_of_the_code():
    made = {}
    for node in source(ROOT / 'hp_inference' / 'nodes' / 'qos.py').body:
        if isinstance(node, ast.Assign) and getattr(node.value, 'func', None) is not None:
            if getattr(node.value.func, 'id', '') == '_profile':
                depth, reliability, *durability = node.value.args
                made[node.targets[0].id] = [
                    str(depth.value), reliability.attr, durability[0].attr if durability
                    else 'VOLATILE']
    listed = {name: [depth, reliability.upper().replace(' ', '_'),
                     durability.upper().replace(' ', '_')]
              for name, depth, reliability, durability in rows(INTERFACES, 'profile')}
    depth = made.pop('MEETINGS')[0]
    assert f'listens to `meeting` keeps the last {depth} of' in INTERFACES.read_text('utf-8')
    assert listed == made

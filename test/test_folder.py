# SPDX-License-Identifier: Apache-2.0
"""Of one folder files are read and written, and of nothing else, whatever they are called."""

import os

import pytest

from hp_inference import files
from hp_inference.files import FileError
from hp_inference.folder import Folder

OUTSIDE = ('/etc/passwd', '/etc/nothing', '../secret', 'a/../../secret', '..', '/', '', '.', './',
           '//etc/passwd', 'sub/../../secret')


@pytest.fixture
def folder(tmp_path):
    """Return a folder beside a file that is none of its business."""
    (tmp_path / 'secret').write_text('secret')
    (tmp_path / 'plans' / 'sub').mkdir(parents=True)
    (tmp_path / 'plans' / 'a.json').write_text('a')
    (tmp_path / 'plans' / 'sub' / 'b.json').write_text('b')
    return Folder(str(tmp_path / 'plans'))


def uses(folder, name):
    """Return what is said of a name, used in each way."""
    said = []
    for use in (folder.check_read, folder.check_write, lambda name: folder.read_text(name, 99),
                lambda name: folder.write(name, 'new', lambda text: True, 99)):
        with pytest.raises(FileError) as refused:
            use(name)
        said.append(str(refused.value))
    return said


def test_files_in_it_are_read_by_their_name_in_it_and_in_full(folder, tmp_path):
    for name, text in (('a.json', 'a'), ('./sub//b.json', 'b'), (f'{tmp_path}/plans/a.json', 'a')):
        folder.check_read(name)
        assert folder.read_text(name, 1) == text
    with pytest.raises(FileError, match='can not read sub/b.json: it has more than 0 bytes'):
        folder.read_text('sub/b.json', 0)
    with pytest.raises(FileError, match='can not read gone.json: No such file or directory'):
        folder.check_read('gone.json')


@pytest.mark.parametrize('name', OUTSIDE)
def test_a_name_that_leads_out_is_refused_and_nothing_is_looked_for(folder, tmp_path, monkeypatch,
                                                                    name):
    looked = []
    monkeypatch.setattr(os, 'open', lambda path, *_, **__: looked.append(path))
    monkeypatch.setattr(os, 'stat', lambda path, *_, **__: looked.append(path))
    for said in uses(folder, name):
        assert said.endswith(f'it is not in the folder {tmp_path}/plans')
    assert not looked


def test_of_what_is_outside_the_same_is_said_whether_it_is_there_or_not(folder, tmp_path):
    there, gone = (uses(folder, str(tmp_path / name)) for name in ('secret', 'gone'))
    assert [said.replace('/secret:', '/gone:') for said in there] == gone


@pytest.mark.parametrize('target', ['../secret', '/etc', 'a.json', 'sub'])
def test_links_are_not_followed_on_the_way_nor_at_its_end(folder, tmp_path, target):
    (tmp_path / 'plans' / 'link').symlink_to(target)
    uses(folder, 'link/b.json')
    for said in uses(folder, 'link'):
        assert 'secret' not in said and ('link' in said.split(': ')[1] or 'regular' in said)
    assert (tmp_path / 'secret').read_text() == 'secret' and (tmp_path / 'plans/link').is_symlink()


def test_a_link_put_on_the_way_between_check_and_use_leads_nowhere(folder, tmp_path):
    os.mkdir(tmp_path / 'elsewhere')
    (tmp_path / 'elsewhere' / 'b.json').write_text('secret')
    folder.check_read('sub/b.json')
    (tmp_path / 'plans' / 'sub').rename(tmp_path / 'moved')
    (tmp_path / 'plans' / 'sub').symlink_to(tmp_path / 'elsewhere')
    uses(folder, 'sub/b.json')
    assert (tmp_path / 'elsewhere' / 'b.json').read_text() == 'secret'


@pytest.mark.parametrize('name', ['x\0y.json', 'x' * 5000 + '.json', '\ud800.json', 'a.json/x'])
def test_names_that_can_be_none_are_refused_in_a_printable_line(folder, name):
    for said in uses(folder, name):
        assert said.isprintable() and len(said) < 1200


def test_pipes_folders_and_devices_are_neither_read_nor_written(folder, tmp_path):
    os.mkfifo(tmp_path / 'plans' / 'pipe')
    for name in ('pipe', 'sub'):
        for said in uses(folder, name):
            assert said.endswith('it is no regular file')


def test_what_is_there_is_replaced_only_by_its_like_and_whole(folder, tmp_path):
    folder.write('new.json', 'one', lambda text: False, 9)  # nothing is there yet
    folder.write('new.json', 'two', lambda text: text == 'one', 9)
    with pytest.raises(FileError, match='what is there is something else, which stays'):
        folder.write('new.json', 'three', lambda text: text == 'one', 9)
    (tmp_path / 'plans' / 'odd').write_bytes(b'\xff')
    (tmp_path / 'plans' / 'long').write_text('x' * 10)
    for name in ('odd', 'long'):
        with pytest.raises(FileError):
            folder.write(name, 'four', lambda text: True, 9)
    assert (tmp_path / 'plans' / 'new.json').read_text() == 'two'
    assert sorted(os.listdir(tmp_path / 'plans')) == ['a.json', 'long', 'new.json', 'odd', 'sub']


def test_the_default_is_where_the_process_was_started_also_by_way_of_a_link(folder, tmp_path,
                                                                            monkeypatch):
    (tmp_path / 'way').symlink_to('plans')
    monkeypatch.chdir(tmp_path / 'way')
    monkeypatch.setenv('PWD', str(tmp_path / 'way'))
    here = Folder()
    monkeypatch.chdir('/')
    for name in ('a.json', f'{tmp_path}/way/a.json', f'{tmp_path}/plans/a.json'):
        assert here.read_text(name, 9) == 'a'
    # A $PWD that is of some other place counts for nothing.
    monkeypatch.setenv('PWD', str(tmp_path))
    monkeypatch.chdir(tmp_path / 'plans')
    uses(Folder(), str(tmp_path / 'secret'))


def test_started_in_a_folder_that_is_gone_it_has_no_files(tmp_path, monkeypatch):
    os.mkdir(tmp_path / 'gone')
    monkeypatch.chdir(tmp_path / 'gone')
    os.rmdir(tmp_path / 'gone')
    uses(Folder(), 'a.json')
    uses(Folder(), '/etc/passwd')
    monkeypatch.chdir(tmp_path)


def test_a_file_named_from_an_open_folder_is_read_and_written_there(tmp_path):
    handle = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        files.write('a', 'text', handle)
        assert files.read_text('a', 9, handle) == (tmp_path / 'a').read_text() == 'text'
        (tmp_path / 'link').symlink_to('a')
        with pytest.raises(FileError, match='it is a link, which is not followed'):
            files.read('link', 9, handle)
    finally:
        os.close(handle)
    assert sorted(os.listdir(tmp_path)) == ['a', 'link']

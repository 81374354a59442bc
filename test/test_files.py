# SPDX-License-Identifier: Apache-2.0
"""Files are read without waiting and within bounds, and written whole or not at all."""

import os
import stat

import pytest

from hp_inference import files
from hp_inference.files import FileError


def test_a_file_is_read_up_to_its_bound(tmp_path):
    path = tmp_path / 'f'
    path.write_bytes(b'abc')
    assert files.read(path, 3) == b'abc'
    with pytest.raises(FileError, match='more than 2 bytes'):
        files.read(path, 2)


def test_a_file_that_tells_too_small_a_size_is_still_bounded(tmp_path, monkeypatch):
    path = tmp_path / 'f'
    path.write_bytes(b'x' * 1000)
    told = os.stat_result((stat.S_IFREG | 0o600, *[0] * 5, 1, *[0] * 3))
    monkeypatch.setattr(files.os, 'fstat', lambda handle: told)
    with pytest.raises(FileError, match='more than 100 bytes'):
        files.read(path, 100)


@pytest.mark.parametrize('path', ['/dev/zero', '/dev/null', '.'])
def test_what_is_no_regular_file_is_refused(path):
    with pytest.raises(FileError, match='no regular file'):
        files.read(path, 10)


def test_a_pipe_that_nobody_writes_to_is_refused_at_once(tmp_path):
    path = tmp_path / 'pipe'
    os.mkfifo(path)
    with pytest.raises(FileError, match='no regular file'):
        files.read(path, 10)


def test_files_of_the_kernel_are_never_waited_for():
    # /proc/kmsg says that it is a regular file, and a read of it waits for the kernel's next line.
    if not os.access('/proc/kmsg', os.R_OK):
        pytest.skip('/proc/kmsg may not be read here')
    assert files.read('/proc/kmsg', 10) == b''


@pytest.mark.parametrize('path', ['', 'no/such/file', 'a\0b', 'x' * 5000, '\ud800'])
def test_names_that_are_none_are_refused_in_one_line(path):
    with pytest.raises(FileError, match='can not read') as refused:
        files.read(path, 10)
    assert str(refused.value).isprintable()


def test_text_is_utf_8_and_a_leading_mark_is_no_part_of_it(tmp_path):
    (tmp_path / 'a').write_bytes(b'\xef\xbb\xbfabc')
    (tmp_path / 'b').write_bytes(b'\xff\xfe')
    assert files.read_text(tmp_path / 'a', 10) == 'abc'
    with pytest.raises(FileError, match='not text'):
        files.read_text(tmp_path / 'b', 10)


@pytest.mark.parametrize('path', ['/dev/zero', '/dev/null', '.', 'no/such/file', '\ud800'])
def test_what_is_no_regular_file_is_not_opened_either(path):
    with pytest.raises(FileError, match='can not read'), files.opened(path):
        pass


def test_a_file_is_opened_with_its_size(tmp_path):
    (tmp_path / 'f').write_bytes(b'abc')
    with files.opened(tmp_path / 'f') as (file, size):
        assert (file.read(), size) == (b'abc', 3)


def test_a_file_that_says_it_is_empty_is_not_opened(tmp_path):
    (tmp_path / 'f').touch()
    with pytest.raises(FileError, match='it is empty'), files.opened(tmp_path / 'f'):
        pass


def test_a_pipe_is_never_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(FileError, match='no regular file'):
        files.write(tmp_path / 'pipe', 'x')
    assert stat.S_ISFIFO((tmp_path / 'pipe').stat().st_mode)
    assert os.listdir(tmp_path) == ['pipe']


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / 'f'
    files.write(path, 'old')
    files.write(path, b'new')
    assert path.read_bytes() == b'new'
    assert os.listdir(tmp_path) == ['f']


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / 'f'
    files.write(path, 'old')

    def full(handle):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(files.os, 'fsync', full)
    with pytest.raises(FileError, match='No space left'):
        files.write(path, 'new')
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['f']


def test_a_link_is_replaced_not_followed(tmp_path):
    (tmp_path / 'target').write_text('precious')
    (tmp_path / 'link').symlink_to('target')
    files.write(tmp_path / 'link', 'new')
    assert (tmp_path / 'target').read_text() == 'precious'
    assert (tmp_path / 'link').read_text() == 'new'


@pytest.mark.parametrize('path', ['no/such/folder/f', '', 'a\0b', '.'])
def test_places_that_can_not_be_written_are_refused_in_one_line(path):
    with pytest.raises(FileError, match='can not write') as refused:
        files.write(path, 'x')
    assert str(refused.value).isprintable()

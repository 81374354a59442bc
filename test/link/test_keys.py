# SPDX-License-Identifier: Apache-2.0
"""Key files: what is taken, what is refused and why, and which robot has which key."""

import os
import subprocess

import pytest

from hp_inference.files import FileError, read
from hp_inference.link.keys import (
    file_name,
    HOW,
    KEY_BYTES,
    KeyFileError,
    keys_of,
    own_key,
    read_key,
)

KEY = bytes(range(KEY_BYTES))
OTHER = bytes(range(100, 100 + KEY_BYTES))


def key_file(path, key=KEY, mode=0o600, text=None):
    path.write_text(key.hex() + '\n' if text is None else text)
    path.chmod(mode)
    return path


def test_a_key_is_what_the_documented_line_makes(tmp_path):
    subprocess.run(['sh', '-c', HOW], cwd=tmp_path, check=True)
    made = tmp_path / 'robot1.key'
    assert made.stat().st_mode & 0o777 == 0o600
    assert len(read_key(made)) == KEY_BYTES
    assert read_key(key_file(tmp_path / 'k')) == KEY
    assert own_key(str(tmp_path / 'k')) == KEY and own_key('') is None


@pytest.mark.parametrize('mode', [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666])
def test_a_key_file_that_others_may_touch_is_refused(tmp_path, mode):
    with pytest.raises(KeyFileError, match=r'others than its owner have access.*chmod 600'):
        read_key(key_file(tmp_path / 'k', mode=mode))


@pytest.mark.skipif(os.geteuid() != 0, reason='only root gives files away')
def test_a_key_file_of_another_user_is_refused(tmp_path, monkeypatch):
    path = key_file(tmp_path / 'k')
    os.chown(path, 1234, 1234)
    with pytest.raises(KeyFileError, match='belongs to user 1234, expected 0'):
        read_key(path)
    monkeypatch.setattr(os, 'geteuid', lambda: 1234)
    assert read_key(path) == KEY
    os.chown(path, 0, 0)  # given by root, as containers do
    assert read_key(path) == KEY


@pytest.mark.parametrize('text', [
    '', 'swordfish', KEY.hex()[:-2], KEY.hex() + '00', f'{KEY.hex()}\n\n\n', 'é' * 32, 'zz' * 32,
    KEY.hex(' ')])
def test_a_file_that_is_no_key_is_refused_without_showing_what_it_holds(tmp_path, text):
    with pytest.raises(KeyFileError) as caught:
        read_key(key_file(tmp_path / 'k', text=text))
    assert str(tmp_path / 'k') in str(caught.value) and 'secrets.token_hex' in str(caught.value)
    assert not text or text.strip() not in str(caught.value)


@pytest.mark.parametrize('key', [bytes(32), b'\xff' * 32, b'0123' * 8])
def test_a_key_that_is_not_random_is_refused(tmp_path, key):
    with pytest.raises(KeyFileError, match='the key is not random'):
        read_key(key_file(tmp_path / 'k', key))


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / 'pipe', 0o600)
    for path in (tmp_path / 'pipe', tmp_path, tmp_path / 'none', '/dev/zero', 'nul\0'):
        with pytest.raises(KeyFileError, match='key file: can not read'):
            read_key(path)


def test_privacy_is_asked_only_where_it_is_meant(tmp_path):
    path = key_file(tmp_path / 'k', mode=0o644)
    assert read(path, 100)
    with pytest.raises(FileError, match='mode 644'):
        read(path, 100, private=True)


def test_each_robot_has_its_own_key_or_the_common_one(tmp_path):
    folder = tmp_path / 'keys'
    folder.mkdir()
    common, own = key_file(tmp_path / 'common'), key_file(folder / 'fleet.r1.key', OTHER)
    names = ('/fleet/r1', '/r2', '/')
    assert keys_of(names, '', '') == dict.fromkeys(names)
    assert keys_of(names, str(common), '') == dict.fromkeys(names, KEY)
    assert keys_of(names, str(common), str(folder)) == {'/fleet/r1': OTHER, '/r2': KEY, '/': KEY}
    assert keys_of(names[:1], '', str(folder)) == {'/fleet/r1': OTHER}
    own.chmod(0o640)  # a file that can't be used is no reason to take the common key
    with pytest.raises(KeyFileError, match='others than its owner'):
        keys_of(names, str(common), str(folder))


def test_a_robot_without_a_key_is_refused_by_the_name_of_its_file(tmp_path):
    with pytest.raises(KeyFileError, match=rf'/fleet/r1 has no key: {tmp_path}/fleet.r1.key is '):
        keys_of(['/fleet/r1'], '', str(tmp_path))
    with pytest.raises(KeyFileError, match="'/' has no name .* 'key_file'"):
        keys_of(['/'], '', str(tmp_path))
    (tmp_path / 'r1.key').symlink_to('nowhere')
    with pytest.raises(KeyFileError, match='can not read'):
        keys_of(['/r1'], str(key_file(tmp_path / 'common')), str(tmp_path))


def test_no_two_namespaces_share_the_name_of_a_file():
    # A dot is in no name of ROS.
    names = ['/a/b', '/a_b', '/a', '/b', '/a/b/c', '/a/b_c']
    assert len({file_name(name) for name in names}) == len(names)
    assert file_name('/robot1') == 'robot1.key'

# SPDX-License-Identifier: Apache-2.0
"""Tests of turning image messages into pixels."""

import array
import io
import sys
import types

import numpy as np
from PIL import Image as PillowImage
import pytest

pytest.importorskip('rclpy')
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from hp_inference.nodes import images  # noqa: E402
from hp_inference.nodes.images import BadImage, from_compressed, from_image  # noqa: E402

pytestmark = pytest.mark.ros
RANDOM = np.random.default_rng(0)


def message(samples, encoding, padding=0, big=False):
    """Return an Image whose rows hold the samples and then some bytes of padding."""
    height, width = samples.shape[:2]
    samples = samples.astype(samples.dtype.newbyteorder('>' if big else '<'))
    rows = np.frombuffer(samples.tobytes(), np.uint8).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return Image(height=height, width=width, encoding=encoding, step=rows.shape[1],
                 is_bigendian=int(big), data=array.array('B', rows.tobytes()))


def compressed(pixels, kind, declared):
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, kind)
    return CompressedImage(format=declared, data=array.array('B', buffer.getvalue()))


@pytest.fixture(autouse=True)
def without_bridge(monkeypatch):
    monkeypatch.setattr(images, 'BRIDGE', None)


@pytest.mark.parametrize('padding', [0, 1, 5])
@pytest.mark.parametrize(('encoding', 'channels', 'rgb'), [
    ('rgb8', 3, [0, 1, 2]), ('bgr8', 3, [2, 1, 0]), ('8UC3', 3, [2, 1, 0]),
    ('rgba8', 4, [0, 1, 2]), ('bgra8', 4, [2, 1, 0])])
def test_colour_comes_out_as_rgb(encoding, channels, rgb, padding):
    samples = RANDOM.integers(0, 256, (3, 4, channels), dtype=np.uint8)
    pixels = from_image(message(samples, encoding, padding), 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, samples[:, :, rgb])


@pytest.mark.parametrize('padding', [0, 3])
@pytest.mark.parametrize('encoding', ['mono8', '8UC1'])
@pytest.mark.parametrize('channels', [1, 3])
def test_gray_comes_out_as_it_is(encoding, channels, padding):
    samples = RANDOM.integers(0, 256, (3, 4), dtype=np.uint8)
    pixels = from_image(message(samples, encoding, padding), channels)
    np.testing.assert_array_equal(pixels, samples)


@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('padding', [0, 2, 3])
@pytest.mark.parametrize(('encoding', 'channels'), [('mono16', 3), ('mono16', 1), ('16UC1', 1)])
def test_of_16_bits_the_high_byte_is_kept_in_either_byte_order(encoding, channels, padding, big):
    samples = np.array([[0x1234, 0xABCD], [0x00FF, 0xFF00]], np.uint16)
    pixels = from_image(message(samples, encoding, padding, big), channels)
    assert pixels.tolist() == [[0x12, 0xAB], [0x00, 0xFF]]


@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('padding', [0, 4, 1])
def test_floats_from_0_to_1_are_scaled_and_rounded(padding, big):
    samples = np.array([[0, 1, 0.5], [0.1, 254.6 / 255, 0.001]], np.float32)
    pixels = from_image(message(samples, '32FC1', padding, big), 1)
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [[0, 255, 128], [26, 255, 0]]


@pytest.mark.parametrize('encoding', ['16UC1', '32FC1'])
def test_measurements_are_refused_by_a_colour_model(encoding):
    samples = np.zeros((2, 2), np.uint16 if encoding == '16UC1' else np.float32)
    with pytest.raises(BadImage) as error:
        from_image(message(samples, encoding), 3)
    assert str(error.value) == (
        f"the image encoding '{encoding}' cannot be used: the model takes 3 channels (colour), "
        'expected one of rgb8, bgr8, rgba8, bgra8, 8UC3, mono8, 8UC1, mono16')


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_floats_that_are_not_finite_are_refused_and_counted(value):
    samples = np.full((3, 4), 0.5, np.float32)
    samples[1, 1:3] = value
    with pytest.raises(BadImage, match='2 of 12 values of the 32FC1 image are NaN or infinite, '
                                       'expected finite values from 0 to 1'):
        from_image(message(samples, '32FC1'), 1)


@pytest.mark.parametrize(('low', 'high'), [(-0.5, 1), (0, 5.25)])
def test_floats_beyond_0_and_1_are_refused_with_their_range(low, high):
    samples = np.array([[low, high]], np.float32)
    with pytest.raises(BadImage, match=f'go from {low:g} to {high:g}, expected 0 to 1'):
        from_image(message(samples, '32FC1'), 1)


@pytest.mark.parametrize('encoding', ['yuv422_yuy2', 'bayer_rggb8', '', 'RGB8'])
def test_an_unknown_encoding_is_refused_with_the_accepted_ones(encoding):
    with pytest.raises(BadImage, match=f"encoding '{encoding}' is unknown, accepted are rgb8, .*"
                                       'mono16, 16UC1, 32FC1'):
        from_image(Image(height=1, width=1, step=1, encoding=encoding, data=[0]), 3)


@pytest.mark.parametrize(('height', 'width'), [(0, 4), (4, 0), (0, 0)])
def test_an_image_without_pixels_is_refused(height, width):
    with pytest.raises(BadImage, match=f'is {width}x{height} .* has no pixels'):
        from_image(Image(height=height, width=width, step=12, encoding='rgb8'), 3)


def test_too_many_pixels_are_refused_before_anything_is_made_of_them():
    # 2^32 rows that are not there: whoever believed the header would allocate terabytes.
    claim = Image(height=2 ** 32 - 1, width=2 ** 32 - 1, step=2 ** 32 - 1, encoding='mono8')
    with pytest.raises(BadImage, match='at most 20000000 are allowed'):
        from_image(claim, 3)


def test_a_step_shorter_than_a_row_is_refused():
    msg = message(np.zeros((2, 4, 3), np.uint8), 'rgb8')
    msg.step = 11
    with pytest.raises(BadImage, match='step is 11 bytes, expected at least 12: 4 pixels of rgb8'):
        from_image(msg, 3)


@pytest.mark.parametrize('change', [-1, 1])
def test_data_of_another_length_than_height_times_step_are_refused(change):
    msg = message(np.zeros((2, 4, 3), np.uint8), 'rgb8')
    msg.data = array.array('B', bytes(24 + change))
    with pytest.raises(BadImage,
                       match=f'data is {24 + change} bytes, expected 24: height 2 x step 12'):
        from_image(msg, 3)


def test_an_empty_image_is_refused():
    with pytest.raises(BadImage, match="encoding '' is unknown"):
        from_image(Image(), 3)
    with pytest.raises(BadImage, match='data is 0 bytes, expected 24: height 2 x step 12'):
        from_image(Image(height=2, width=4, step=12, encoding='rgb8'), 3)


@pytest.mark.parametrize('declared', ['png', 'bgr8; png compressed bgr8', ''])
def test_a_png_message_decodes(declared):
    samples = RANDOM.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    pixels = from_compressed(compressed(samples, 'PNG', declared), 3)
    np.testing.assert_array_equal(pixels, samples)


def test_a_jpeg_message_decodes_to_nearly_the_same():
    samples = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    pixels = from_compressed(compressed(samples, 'JPEG', 'jpeg'), 3)
    assert np.abs(pixels.astype(int) - samples).max() <= 3


def test_a_compressed_image_that_does_not_decode_names_the_declared_format():
    msg = CompressedImage(format='16UC1; compressedDepth png', data=array.array('B', bytes(50)))
    with pytest.raises(BadImage, match='neither JPEG nor PNG.*16UC1; compressedDepth png'):
        from_compressed(msg, 1)
    with pytest.raises(BadImage, match=r"is empty, expected.*declared format 'jpeg'"):
        from_compressed(CompressedImage(format='jpeg'), 3)


def test_compressed_measurements_are_refused_by_a_colour_model():
    samples = np.zeros((3, 4), np.uint16)
    msg = compressed(samples, 'PNG', '16UC1; png compressed ')
    with pytest.raises(BadImage, match="'16UC1' cannot be used: the model takes 3 channels"):
        from_compressed(msg, 3)
    assert from_compressed(msg, 1).tolist() == samples.tolist()


def test_compressed_pixels_are_limited_too():
    msg = compressed(np.zeros((3, 4), np.uint8), 'PNG', 'png')
    with pytest.raises(BadImage, match='at most 11 are allowed'):
        from_compressed(msg, 3, max_pixels=11)


class RecordingBridge:
    """Stands in for cv_bridge, which only a ROS installation has."""

    def __init__(self):
        self.calls = []

    def imgmsg_to_cv2(self, msg, desired_encoding):
        self.calls.append((msg.encoding, desired_encoding))
        samples = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.step)
        return samples[:, :msg.width * 3].reshape(msg.height, msg.width, 3)[:, :, ::-1]


def test_cv_bridge_converts_what_it_can(monkeypatch):
    bridge = RecordingBridge()
    monkeypatch.setattr(images, 'BRIDGE', bridge)
    samples = RANDOM.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(from_image(message(samples, 'bgr8', 3), 3), samples[:, :, ::-1])
    # Rows that are no whole number of pixels, and encodings with rules of ours, stay here.
    np.testing.assert_array_equal(from_image(message(samples, 'bgr8', 1), 3), samples[:, :, ::-1])
    np.testing.assert_array_equal(from_image(message(samples, '8UC3'), 3), samples[:, :, ::-1])
    from_image(message(samples[..., 0].astype(np.uint16), 'mono16'), 3)
    assert bridge.calls == [('bgr8', 'rgb8')]


def test_cv_bridge_never_sees_a_message_that_contradicts_itself(monkeypatch):
    bridge = RecordingBridge()
    monkeypatch.setattr(images, 'BRIDGE', bridge)
    msg = message(np.zeros((2, 4, 3), np.uint8), 'bgr8')
    msg.height = 3
    with pytest.raises(BadImage, match='data is 24 bytes, expected 36'):
        from_image(msg, 3)
    assert not bridge.calls


def test_only_a_cv_bridge_that_converts_rightly_is_used(monkeypatch):
    def module(convert):
        bridge = types.SimpleNamespace(imgmsg_to_cv2=convert)
        return types.SimpleNamespace(CvBridge=lambda: bridge)

    def fails(_msg, _encoding):
        raise ImportError('numpy.core.multiarray failed to import')

    monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    assert images._working_bridge() is None
    monkeypatch.setitem(sys.modules, 'cv_bridge', module(fails))
    assert images._working_bridge() is None
    monkeypatch.setitem(sys.modules, 'cv_bridge', module(lambda *_: np.array([[[1, 2, 3]]])))
    assert images._working_bridge() is None
    monkeypatch.setitem(sys.modules, 'cv_bridge', module(RecordingBridge().imgmsg_to_cv2))
    assert images._working_bridge() is not None

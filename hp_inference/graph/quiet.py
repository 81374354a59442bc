# SPDX-License-Identifier: Apache-2.0
"""Keeps torch.export's remarks on its own insides away from the user."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import io
import logging
import warnings

from hp_inference.text import line


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """
    Silence warnings, logs and standard error: what goes wrong is raised as well.

    On failure torch.export also logs tracebacks and prints the whole graph.
    """
    was = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(was)


@contextlib.contextmanager
def tame() -> Iterator[None]:
    """
    Let other people's code raise nothing but errors: what would end the program becomes one.

    Ctrl-C passes.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) and type(error) is not KeyboardInterrupt:
            raise RuntimeError(f'{type(error).__name__}: {line(error)}') from error
        raise
    except BaseException as error:
        raise RuntimeError(f'{type(error).__name__}: {line(error)}') from error

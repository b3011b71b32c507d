"""The one place where an error becomes a message on the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info
from qtpy.QtWidgets import QWidget

from napari_noisylabel.errors import NoisyLabelError

BINDING_NOTICE = "PyQt5 backend is deprecated"


@contextmanager
def noticed() -> Iterator[None]:
    """Turn a NoisyLabelError into a notification; anything else keeps its traceback."""
    try:
        yield
    except NoisyLabelError as error:
        show_error(str(error))


def tell(error: BaseException) -> None:
    """Like `noticed`, for an error that another thread handed over."""
    with noticed():
        raise error


def say(message: str) -> None:
    """A notification that is not an error."""
    show_info(message)


def aside(
    function: Callable[..., Any],
    *args: Any,
    done: Callable[[Any], Any] | None = None,
    failed: Callable[[BaseException], Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Run `function` in a thread; `done(result)` or the notice come back on the main thread.

    `failed(error)` is called before the notice, to put a window back as it was.
    """
    connect: dict[str, Any] = {"errored": [*([failed] if failed else []), tell]}
    if done is not None:
        connect["returned"] = done
    return create_worker(function, *args, _start_thread=True, _connect=connect, **kwargs)


def skip_binding_notice() -> None:
    """Keep napari from warning about PyQt5 when its window shows: call it before making the viewer.

    Installers choose the binding, not the reader of masks; the README names it.
    """
    from napari._qt import qt_main_window  # only there from napari 0.9 on

    if hasattr(qt_main_window, "SHOW_QT_WARNING"):
        qt_main_window.SHOW_QT_WARNING = False


def close_binding_notice(window: QWidget) -> None:
    """Close the PyQt5 notice if `window` shows it already."""
    from napari._qt.dialogs.qt_notification import NapariQtNotification

    for notice in window.findChildren(NapariQtNotification):
        if BINDING_NOTICE in notice.message.text():
            notice.close()

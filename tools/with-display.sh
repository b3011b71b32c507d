#!/bin/sh
# Runs a command under the display there is, else under a virtual one of 1600 x 1000 pixels.
#
#     tools/with-display.sh COMMAND [ARGUMENT]...
#     tools/with-display.sh --have          exit 0 where there is a display, 1 where there is none
set -eu

have_display() {
    [ "$(uname -s)" != Linux ] || [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]
}

if [ "${1:-}" = --have ]; then
    have_display
    exit
fi
if have_display; then
    exec "$@"
fi
if ! command -v xvfb-run >/dev/null 2>&1; then
    echo "There is no display, and no xvfb-run to make a virtual one: install Xvfb (Debian's package xvfb)." >&2
    exit 2
fi
# Qt's own "offscreen" platform draws no OpenGL: the canvas would stay empty, without an error.
export QT_QPA_PLATFORM=xcb
exec xvfb-run -a -s "-screen 0 1600x1000x24" "$@"

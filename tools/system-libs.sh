#!/bin/sh
# Checks for the system libraries that Qt, OpenGL and a virtual display need, and installs the missing ones
# on Debian and Ubuntu when run as root. Elsewhere it prints one line that names them and goes on: a library
# may be where the loader of this system finds it and this script does not.
set -eu

[ "$(uname -s)" = Linux ] || exit 0

# shared library (or command, or package) and the Debian package that brings it
NEEDED="
libGL.so.1 libgl1
libEGL.so.1 libegl1
libglib-2.0.so.0 libglib2.0-0
libfontconfig.so.1 libfontconfig1
libdbus-1.so.3 libdbus-1-3
libxkbcommon-x11.so.0 libxkbcommon-x11-0
libxcb-cursor.so.0 libxcb-cursor0
libxcb-icccm.so.4 libxcb-icccm4
libxcb-image.so.0 libxcb-image0
libxcb-keysyms.so.1 libxcb-keysyms1
libxcb-randr.so.0 libxcb-randr0
libxcb-render-util.so.0 libxcb-render-util0
libxcb-shape.so.0 libxcb-shape0
libxcb-xinerama.so.0 libxcb-xinerama0
libxcb-xkb.so.1 libxcb-xkb1
"
PATH="$PATH:/usr/sbin:/sbin"
on_debian() { command -v apt-get >/dev/null 2>&1 && command -v dpkg-query >/dev/null 2>&1; }
installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

missing=""
packages=""
lack() {
    missing="$missing${missing:+, }$1"
    packages="$packages${packages:+ }$2"
}

libraries=$(ldconfig -p 2>/dev/null || true)
if [ -n "$libraries" ]; then
    while read -r library package; do
        [ -n "$library" ] || continue
        case "$libraries" in *"$library "*) ;; *) lack "$library" "$package" ;; esac
    done <<EOF
$NEEDED
EOF
fi
# The virtual display is needed only where there is no real one, or nobody who looks at it.
if [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] || [ -n "${CI:-}" ]; then
    command -v Xvfb >/dev/null 2>&1 || lack Xvfb xvfb
    command -v xauth >/dev/null 2>&1 || lack xauth xauth
fi
if on_debian; then # what no library name and no command can tell
    installed libgl1-mesa-dri || lack "the Mesa drivers" libgl1-mesa-dri
    fc-list 2>/dev/null | grep -q . || installed fonts-dejavu-core || lack "a font" fonts-dejavu-core
fi

[ -n "$missing" ] || exit 0

if on_debian && [ "$(id -u)" = 0 ]; then
    echo "Installing what Qt and OpenGL need: $packages" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of package names
    apt-get install -qq -y --no-install-recommends $packages >/dev/null
elif on_debian; then
    echo "Missing on this system: $missing. Install with: sudo apt-get install $packages" >&2
else
    echo "Missing on this system: $missing (in Debian's packages $packages)." \
        "Install them with your package manager if the window does not open." >&2
fi

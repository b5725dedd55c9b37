#!/bin/sh
# Libraries that pip cannot bring: installed when root can, else named with the command that does it.
set -eu

library=libturbojpeg.so.0 # PyTurboJPEG 1.x binds to libjpeg-turbo 2's
package=libturbojpeg0

found() {
    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null; } | grep -q "$library"
}

found && exit 0
[ "$(uname -s)" = Linux ] || { echo "headstream needs libjpeg-turbo's $library; on macOS: brew install jpeg-turbo" >&2; exit 0; }
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing $package"
    apt-get update -qq
    # Ubuntu has the same library under another name.
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >/dev/null 2>&1 ||
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libturbojpeg >/dev/null
    found && exit 0
fi
echo "$library is missing: run 'sudo apt-get install $package' (on Ubuntu: libturbojpeg), then this command again" >&2
exit 1

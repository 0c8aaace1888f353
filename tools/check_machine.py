"""Say in one sentence what a machine lacks before anything is installed. Runs on any Python 3."""

import platform
import shutil
import sys

NEEDED_BYTES = 6 * 1024**3


def problem():
    """Return the first thing that is missing, or None."""
    if not ((3, 11) <= sys.version_info[:2] <= (3, 13)):
        found = platform.python_version()
        return "Python 3.11, 3.12 or 3.13 is needed and `%s` is %s; run `make PYTHON=python3.11 ...`." % (
            sys.executable,
            found,
        )
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "The embedded services come as wheels for Linux on x86-64; this is %s on %s." % (
            platform.system(),
            platform.machine(),
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return "Python's venv module is missing; install it, on Debian and Ubuntu: apt-get install python3-venv."
    free = shutil.disk_usage(".").free
    if free < NEEDED_BYTES:
        return "%.1f GB of disk are free here and %.0f GB are needed; make room or clone to another disk." % (
            free / 1024**3,
            NEEDED_BYTES / 1024**3,
        )
    return None


if __name__ == "__main__":
    said = problem()
    if said:
        sys.exit("taxiway: " + said)

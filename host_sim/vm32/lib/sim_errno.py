"""A file system whose errors have the numbers of an ESP32: this VM's are those of WASI (a file that is not there is 44, not 2)."""

# WASI -> esp32: EACCES, EBADF, EEXIST, EINVAL, EIO, EISDIR, ENODEV, ENOENT, ENOSPC, ENOTDIR, ENOTEMPTY, EPERM
_PORT = {2: 13, 8: 9, 20: 17, 28: 22, 29: 5, 31: 21, 43: 19, 44: 2, 51: 28, 54: 20, 55: 39, 63: 1}


def _ported(method):
    def wrapped(*args):
        try:
            return method(*args)
        except OSError as e:
            raise OSError(_PORT.get(e.errno, e.errno))

    return wrapped


class Ported:
    """`fs` with an ESP32's error numbers; to be mounted. Open files are the file system's own."""

    def __init__(self, fs):
        for name in (
            "mount",
            "umount",
            "open",
            "chdir",
            "getcwd",
            "ilistdir",
            "mkdir",
            "remove",
            "rename",
            "rmdir",
            "stat",
            "statvfs",
        ):
            setattr(self, name, _ported(getattr(fs, name)))

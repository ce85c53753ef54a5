"""Non-volatile storage of the esp32 port: small ints and blobs in the namespace "citymote"."""

from esp32 import NVS


class Nvs:
    """get/put int (32 bits) and bytes; put returns after the commit. Raises OSError when flash refuses."""

    def __init__(self, namespace="citymote"):
        self._nvs = NVS(namespace)

    def get(self, key):
        """Return the int under key (15 characters at most), or None."""
        try:
            return self._nvs.get_i32(key)
        except OSError:  # ESP_ERR_NVS_NOT_FOUND, or the page was damaged: either way there is no value
            return None

    def put(self, key, value):
        """Store an int."""
        self._nvs.set_i32(key, value)
        self._nvs.commit()

    def get_blob(self, key, size):
        """Return the `size` bytes under key, or None."""
        buf = bytearray(size)
        try:
            return bytes(buf) if self._nvs.get_blob(key, buf) == size else None
        except OSError:
            return None

    def put_blob(self, key, value):
        """Store bytes."""
        self._nvs.set_blob(key, value)
        self._nvs.commit()

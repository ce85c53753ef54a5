"""`cryptolib` for a VM that has none: aes(key, 1) of 128 bits, encryption of single blocks, which is all that CCM asks for."""

from aes_block import Aes128


class aes(Aes128):
    def __init__(self, key, mode):
        if mode != 1 or len(key) != 16:
            raise ValueError("mode" if mode != 1 else "key")  # as the C module; 256 bits and CBC are not in use
        super().__init__(key)
